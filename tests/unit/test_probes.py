"""What probes say of services: ready when they say so, live while their threads turn."""

from __future__ import annotations

import threading
from http import HTTPStatus

import pytest

from penstock.service import Pulse, ThreadService
from penstock.telemetry.probes import Probes
from tests.fixtures.patience import PATIENCE_S


def answers(probes: Probes) -> tuple[tuple[int, str], tuple[int, str]]:
    """Of ``/healthz`` and of ``/readyz``."""
    given = [probes.pages[page]("") for page in ("/healthz", "/readyz")]
    first, second = [(each.status.value, each.document) for each in given]
    return first, second


OK = (HTTPStatus.OK.value, "ok")


def test_it_is_ready_when_it_says_so_and_lives_before() -> None:
    probes = Probes(stuck_after_s=10.0, starting="not yet")
    assert answers(probes) == (OK, (503, "not yet"))
    probes.ready()
    assert answers(probes) == (OK, OK)


def test_it_may_become_unready_again() -> None:
    why = ["no model"]
    probes = Probes(stuck_after_s=10.0)
    probes.ready(lambda: why[0])
    assert answers(probes) == (OK, (503, "no model"))
    why[0] = ""
    assert answers(probes) == (OK, OK)


@pytest.mark.parametrize(
    ("beats_at", "now", "live"),
    [(100.0, 110.0, True), (100.0, 110.1, False), (None, 1e9, True)],
    ids=["in time", "stuck", "it waits for work"],
)
def test_a_thread_is_stuck_after_too_long_a_turn(beats_at: float | None, now: float, live: bool) -> None:
    clock = [100.0]
    pulse = Pulse(lambda: clock[0])
    if beats_at is not None:
        pulse.beat()
    probes = Probes(stuck_after_s=10.0)
    probes.watch_pulse("hub", pulse)
    probes.ready()
    clock[0] = now
    health, ready = answers(probes)
    assert ready == OK
    assert health == (OK if live else (503, "thread hub has been at one turn for 10 s"))


def test_a_thread_that_has_ended_is_told_until_the_process_ends_itself() -> None:
    service = ThreadService("brief", lambda: None)
    service.start()
    assert service.join(PATIENCE_S)
    probes = Probes(stuck_after_s=10.0)
    probes.watch(service)
    probes.ready()
    assert answers(probes) == ((503, "thread brief has ended"), OK)
    probes.ends()
    assert answers(probes) == (OK, (503, "stopping"))


def test_all_that_is_wrong_is_said() -> None:
    probes = Probes(stuck_after_s=10.0)
    probes.ask(lambda: "one thing")
    probes.ask(lambda: "")
    probes.ask(lambda: "another")
    assert answers(probes)[0] == (503, "one thing; another")


def test_a_thread_owns_its_pulse() -> None:
    """What beats on one thread says nothing of another."""
    pulse, other = Pulse(), Pulse()
    done = threading.Event()

    def run() -> None:
        other.own()
        done.set()

    pulse.own()
    pulse.rest()
    threading.Thread(target=run).start()
    assert done.wait(PATIENCE_S)
    assert pulse.resting
    assert not other.resting
