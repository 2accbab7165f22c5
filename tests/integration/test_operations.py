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
from penstock_cli.up import Stack
from tests.fixtures.ports import free_port
from tests.fixtures.redis import until

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
EXAMPLES = Path(__file__).parents[2] / "examples"
PASSWORD = "s3cret"


@pytest.fixture
def restricted_url(tmp_path: Path) -> Iterator[str]:
    """A Redis that admits nobody but the user of the page."""
    (rules,) = re.findall(r"^ACL SETUSER (penstock .*)$", PAGE, re.MULTILINE)
    port = free_port()
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user {rules.replace('>PASSWORD', f'>{PASSWORD}')}\nuser default off\nuser admin on >admin ~* &* +@all\n"
    )
    server = subprocess.Popen(
        [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--aclfile", str(acl), "--appendonly", "yes"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    admin = redis.Redis(port=port, username="admin", password="admin")

    def answers() -> bool:
        try:
            return bool(admin.ping())
        except redis.ConnectionError:
            assert server.poll() is None, "the server did not start"
            return False

    try:
        until(answers)
        yield f"redis://penstock:{PASSWORD}@127.0.0.1:{port}/0"
        refused = sorted({(entry["reason"], entry["object"]) for entry in admin.acl_log(100)})
        assert not refused, str(refused)
    finally:
        admin.close()
        server.terminate()
        server.wait(20)


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
            assert client.run("shout", "hello", result_timeout=30) == "HELLO"
            jobs = client.enqueue_many("shout", ["text"] * 50)
            assert {job.result(30) for job in client.as_completed(jobs, timeout=30)} == {"TEXT"}
        assert "HELLO" in typed(sys.executable, str(EXAMPLES / "canvas.py"))
        penstock_ = (sys.executable, "-m", "penstock_cli")
        assert "shout" in typed(*penstock_, "queue", "stats")
        typed(*penstock_, "queue", "purge", "shout", "--yes")
        assert PASSWORD not in typed(*penstock_, "doctor")
