"""``/healthz`` and ``/readyz``, beside ``/metrics``: whether a process lives, and whether it can do its work.

*Ready* is what is loaded and warmed; being busy changes nothing about it, nor do servers that are away. *Live* is what
comes on from turn to turn: a process whose thread is at one turn for too long has to be started again, and nothing else
has. It lives while it loads, while it is parked, and while it waits for a server. Whatever ends is not judged any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from penstock.service import Pulse, ThreadService
from penstock.telemetry.pages import Answer, Page

#: Why something is wrong, for a person; empty: it is well.
Why = Callable[[], str]


class Probes:
    """What is watched is watched until ``ends``. A thread may be at one turn for ``stuck_after_s``."""

    def __init__(self, *, stuck_after_s: float, starting: str = "starting") -> None:
        self._stuck_after_s = stuck_after_s
        self._pulses: dict[str, Pulse] = {}
        self._services: list[ThreadService] = []
        self._whys: list[Why] = []
        self._unready: Why = lambda: starting
        self._ending = False

    def watch(self, *services: ThreadService) -> None:
        """These threads are to live and to turn."""
        self._services += services
        self._pulses |= {service.name: service.pulse for service in services}

    def watch_pulse(self, name: str, pulse: Pulse) -> None:
        """The same of a thread that is no service of ours."""
        self._pulses[name] = pulse

    def ask(self, why: Why) -> None:
        """Something else that may be wrong with its life."""
        self._whys.append(why)

    def ready(self, unless: Why = lambda: "") -> None:
        """From now on it is ready, unless there is a reason why not."""
        self._unready = unless

    def ends(self) -> None:
        """It is being stopped: not ready any more, and not to be killed for threads that end."""
        self._ending = True

    def unready(self) -> str:
        """Why it is not ready; empty: it is."""
        return "stopping" if self._ending else self._unready()

    def dead(self) -> list[str]:
        """What does not turn any more."""
        if self._ending:
            return []
        return [*self._stuck(), *(why for ask in self._whys if (why := ask()))]

    def _stuck(self) -> Iterable[str]:
        for service in self._services:
            if not service.alive:
                yield f"thread {service.name} has ended"
        for name, pulse in self._pulses.items():
            if (stuck_s := pulse.stuck_s()) > self._stuck_after_s:
                yield f"thread {name} has been at one turn for {stuck_s:.0f} s"

    @property
    def pages(self) -> Mapping[str, Page]:
        """For the ``Endpoint``."""
        return {"/healthz": lambda _: _answer(self.dead()), "/readyz": lambda _: _answer(self._unready_list())}

    def _unready_list(self) -> list[str]:
        return [why] if (why := self.unready()) else []


def _answer(wrong: list[str]) -> Answer:
    return Answer("; ".join(wrong), HTTPStatus.SERVICE_UNAVAILABLE) if wrong else Answer("ok")
