"""The guardian: children do not outlive a parent that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from penstock.processes.watch import Guardian
from penstock_cli.up.state import AlreadyRunning, ChildState, Lease, State, born_at, running
from tests.fixtures.patience import PATIENCE_S

# Says when it is asked to stop, and stops.
# One write each: `print` writes the end of the line by itself, and two children share a pipe.
OBEDIENT = """
import os, signal, sys, time
def stop(number, frame):
    os.write(1, f"{sys.argv[1]}\\n".encode())
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"up\\n")
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


def spawn(
    children: list[subprocess.Popen[str]], code: str, *args: str, out: int | None = None
) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE if out is None else out, text=True
    )
    children.append(child)
    if out is None:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
    return child


def test_it_stops_stage_by_stage_when_its_parent_is_gone(children: list[subprocess.Popen[str]]) -> None:
    """Both write into one pipe, so what is read is the order in which they stopped."""
    reader, writer = os.pipe()
    guardian = Guardian()
    guardian.start()
    with os.fdopen(reader) as told:
        first = spawn(children, OBEDIENT, "worker", out=writer)
        second = spawn(children, OBEDIENT, "broker", out=writer)
        os.close(writer)
        assert [told.readline(), told.readline()] == ["up\n", "up\n"]
        guardian.add(second.pid, stage=2, grace_s=10)
        guardian.add(first.pid, stage=0, grace_s=10)
        guardian.stop()  # closes the pipe, as the parent's death does
        assert told.read() == "worker\nbroker\n"
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_child_that_does_not_listen_is_killed(children: list[subprocess.Popen[str]]) -> None:
    guardian = Guardian()
    guardian.start()
    child = spawn(children, STUBBORN)
    guardian.add(child.pid, stage=0, grace_s=0.2)
    guardian.stop()
    assert child.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_child_that_is_gone_is_not_looked_for(children: list[subprocess.Popen[str]]) -> None:
    guardian = Guardian()
    guardian.start()
    gone, stays = spawn(children, OBEDIENT, "a"), spawn(children, OBEDIENT, "b")
    guardian.add(gone.pid, stage=0, grace_s=5)
    gone.kill()
    gone.wait()
    guardian.add(stays.pid, stage=0, grace_s=5)
    guardian.remove(stays.pid)
    guardian.stop()
    assert stays.poll() is None, "it was taken off the list"


def test_no_guardian_no_error(children: list[subprocess.Popen[str]]) -> None:
    guardian = Guardian()
    guardian.start()
    assert guardian._process is not None
    guardian._process.kill()
    guardian._process.wait()
    guardian.add(os.getpid(), stage=0, grace_s=1)
    guardian.remove(os.getpid())
    guardian.stop()


# The lock and the state file --------------------------------------------------------------------------------------


def test_a_home_has_one_holder_and_the_second_is_told_who(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    first = Lease(home)
    assert first.acquire() is None
    state = State(pid=os.getpid(), born_at=born_at(os.getpid()), ready=True, dashboard="http://127.0.0.1:1")
    first.write(state)
    with pytest.raises(AlreadyRunning) as caught:
        Lease(home).acquire()
    assert caught.value.state == state
    assert running(home) == state
    first.release()
    first.release()
    assert running(home) is None
    second = Lease(home)
    assert second.acquire() is None
    second.release()


def test_the_lock_dies_with_its_holder_and_its_state_is_handed_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    code = """
import os, sys
from pathlib import Path
from penstock_cli.up.state import ChildState, Lease, State, born_at
lease = Lease(Path(sys.argv[1]))
lease.acquire()
child = ChildState(name="worker", pid=int(sys.argv[2]), born_at=born_at(int(sys.argv[2])), log="", stage=0)
lease.write(State(pid=os.getpid(), born_at=born_at(os.getpid()), children=[child]))
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning):
            Lease(home).acquire()
        holder.kill()
    assert running(home) is None
    lease = Lease(home)
    old = lease.acquire()
    lease.release()
    assert old is not None and old.pid == holder.pid
    assert [child.process() for child in old.children] == [psutil.Process()]


def test_a_number_used_again_is_another_process() -> None:
    child = ChildState(name="x", pid=os.getpid(), born_at=born_at(os.getpid()) - 100, log="", stage=0)
    assert child.process() is None


def test_a_damaged_state_file_is_no_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "run").mkdir()
    for text in ("{", "[]", '{"pid": 1, "unknown": 2}', ""):
        (home / "run" / "up.json").write_text(text)
        assert running(home) is None
