"""Signals as something to wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from penstock_cli.services import Signals, Stop, interruptible, unbroken
from tests.fixtures.patience import PATIENCE_S


def test_a_signal_is_waited_for_and_looked_at() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signals.check()
        assert not signals.wait(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(PATIENCE_S) and signals.arrived
        with pytest.raises(Stop):
            signals.check()
        assert not signals.wait(0), "each is told once"
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wait(PATIENCE_S), "and the next one again"
    assert signal.getsignal(signal.SIGTERM) is before


def test_more_signals_than_the_pipe_holds_do_not_block() -> None:
    with Signals() as signals:
        for _ in range(70_000):
            signal.raise_signal(signal.SIGINT)
        assert signals.wait(PATIENCE_S)


def test_they_nest() -> None:
    with Signals() as outer:
        with Signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.wait(PATIENCE_S)
        assert not outer.wait(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.wait(PATIENCE_S)


def test_interruptible_raises_and_restores() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(Stop), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before


def test_an_interruption_that_gets_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_cli.services.AGAIN_S", 0.05)
    with pytest.raises(Stop), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Stop:
            pass  # as in a callback whose exceptions are ignored
        while True:
            time.sleep(0.01)  # not `pause`: the alarm may come just before it, and not again


def test_a_step_is_not_cut_in_half() -> None:
    before = signal.getsignal(signal.SIGINT)
    steps = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        signal.raise_signal(signal.SIGINT)
        steps.append("done all the same")
    assert steps
    assert signal.getsignal(signal.SIGINT) is before


def test_who_insists_cuts_it_in_half() -> None:
    with pytest.raises(KeyboardInterrupt), unbroken():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one takes effect at once")


def test_a_step_without_a_signal_just_ends() -> None:
    with unbroken():
        pass


#: Sends SIGINT to this process when the module of this name is looked for.
AT_IMPORT = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
module, program, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "program", "status"),
    [
        ("click", "penstock_cli", 130),
        ("penstock_cli.errors", "penstock_cli", 130),
        ("pydantic", "penstock_cli", 130),
        ("celery", "penstock_worker", -signal.SIGINT),
    ],
)
def test_ctrl_c_before_a_command_has_begun_is_quiet(module: str, program: str, status: int) -> None:
    """While it is imported, by the program or by a command of it."""
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, program, "config", "show"], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (status, b"", b""), "but for the new line of Click's"
