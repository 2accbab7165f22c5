"""The supervisor of one worker, without a worker."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Iterator
from unittest import mock

import pytest
from structlog.testing import capture_logs

from penstock.clock import monotonic_s
from penstock.settings import Settings
from penstock_worker import supervisor


@pytest.fixture
def handlers() -> Iterator[None]:
    """What the supervisor does to this process's signals is undone."""
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_worker_that_ends_before_it_served_is_no_success_whatever_its_status() -> None:
    """A module that calls ``os._exit(0)``: a fleet under ``Restart=on-failure`` would stay dead."""
    ours = supervisor.Supervisor(Settings.load())
    ours._command = ["true"]
    assert ours.run() == 1


def test_a_process_that_cannot_be_killed_is_told_of_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver may hold it for minutes: no line each time that somebody looks."""
    monkeypatch.setattr(supervisor, "AGAIN_FIRST_S", 0.05)
    real = subprocess.Popen.kill
    tries = itertools.count(1)

    def kill(process: subprocess.Popen[bytes]) -> None:
        if next(tries) == 4:
            real(process)

    ours = supervisor.Supervisor(Settings.load())
    ours._command = ["sleep", "600"]
    ours._stop_by = started = monotonic_s()
    with mock.patch.object(subprocess.Popen, "kill", kill), capture_logs() as logs:
        ours._once()
    assert [(line["action"], line["kills"]) for line in logs] == [("supervisor.kill", n) for n in (1, 2, 3, 4)]
    assert monotonic_s() - started >= 0.05 + 0.1 + 0.2, "and each time later"
