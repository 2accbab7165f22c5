"""What ``docs/operations.md`` tells operators to type works: the Redis user's rules are enough for everything."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import penstock
from penstock.settings import Settings
from penstock.transport.embedded import find_server
from penstock.transport.refusals import Refused
from penstock.transport.url import connect
from penstock_cli.up import Stack
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port
from tests.fixtures.redisprogram import LoggedServer, all_programs, version

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
EXAMPLES = Path(__file__).parents[2] / "examples"
PASSWORD = "s3cret"


def documented(program: Path, folder: Path) -> tuple[LoggedServer, redis.Redis, int]:
    """A server that admits the user of the page and an administrator, who types what the page tells to type."""
    first, *more = re.findall(r"^ACL SETUSER (penstock .*)$", PAGE, re.MULTILINE)
    port = free_port()
    acl = folder / "users.acl"
    # The rules for older servers follow those for all, as the page says.
    rules = [first, *(more if version(program)[1] < 7 else [])]
    acl.write_text("user admin on >admin ~* &* +@all\nuser default off\n")
    arguments = ["--port", port, "--bind", "127.0.0.1", "--aclfile", acl, "--appendonly", "yes"]
    server = LoggedServer(*arguments, folder=folder, program=program)
    admin = redis.Redis(port=port, username="admin", password="admin")

    def answers() -> bool:
        try:
            return bool(admin.ping())
        except redis.ConnectionError:
            return False

    server.wait(answers)
    for line in rules:
        admin.execute_command(*f"ACL SETUSER {line}".replace(">PASSWORD", f">{PASSWORD}").split())
    # It can be kept: a server takes back from its file what it was told.
    admin.execute_command("ACL", "SAVE")
    admin.execute_command("ACL", "LOAD")
    return server, admin, port


@pytest.fixture
def restricted_url(tmp_path: Path) -> Iterator[str]:
    """A Redis that admits nobody but the user of the page."""
    server, admin, port = documented(find_server(), tmp_path)
    try:
        yield f"redis://penstock:{PASSWORD}@127.0.0.1:{port}/0"
        refused = sorted({(entry["reason"], entry["object"]) for entry in admin.acl_log(100)})
        assert not refused, str(refused)
    finally:
        admin.close()
        server.stop()


@pytest.mark.parametrize("program", all_programs().values(), ids=all_programs())
def test_every_redis_takes_the_documented_user(program: Path, tmp_path: Path) -> None:
    """Each server program that is here; ``test_the_documented_redis_user_is_enough`` runs everything on one of them."""
    server, admin, port = documented(program, tmp_path)
    try:
        with connect(f"redis://penstock:{PASSWORD}@127.0.0.1:{port}/0", timeout_s=30.0) as client:
            assert client.ping()
            client.set("penstock.x", "1")
            assert client.keys("penstock.*") == [b"penstock.x"]
            for command in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["GET", "elsewhere"]):
                with pytest.raises(Refused, match="NOPERM"):
                    client.execute_command(*command)
            assert admin.acl_log_reset()
            # What the client library says of itself when it connects.
            client.connection_pool.disconnect()
            assert client.ping()
        assert admin.acl_log(10) == []
    finally:
        admin.close()
        server.stop()


@pytest.mark.timeout(180)
def test_the_documented_redis_user_is_enough(restricted_url: str, tmp_path: Path) -> None:
    """Plain jobs, a canvas, the queue's figures, the doctor and a stop, all as that user; nothing is refused."""
    settings = Settings.load(home=tmp_path / "home", broker_url=restricted_url)

    def typed(*command: str) -> str:
        done = subprocess.run(
            command,
            env={"PATH": "", **settings.environ()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    with Stack(settings, [str(EXAMPLES / "shout.py")]) as stack:
        stack.wait_ready()
        with penstock.Client(settings) as client:
            assert client.run("shout", "hello", result_timeout=PATIENCE_S) == "HELLO"
            jobs = client.enqueue_many("shout", ["text"] * 50)
            assert {job.result(PATIENCE_S) for job in client.as_completed(jobs, timeout=PATIENCE_S)} == {"TEXT"}
        assert "HELLO" in typed(sys.executable, str(EXAMPLES / "canvas.py"))
        penstock_ = (sys.executable, "-m", "penstock_cli")
        assert "shout" in typed(*penstock_, "queue", "stats")
        typed(*penstock_, "queue", "purge", "shout", "--yes")
        assert PASSWORD not in typed(*penstock_, "doctor")
