"""Workers as processes of this machine.

They do not depend on whoever started them: each leads a session of its own, and the row says its number and when it
started, so that a successor finds it again (``adopt``). What a predecessor announced and did not live to start, or to
write down, is looked for once in the table of processes; what is not found there is started anew with another fence,
and whoever comes with the old one is turned away by its slot.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from penstock import inventory, private
from penstock.autoscaler.backends.base import Realised
from penstock.autoscaler.backends.command import Named, words_of
from penstock.autoscaler.backends.crashes import Crashes
from penstock.autoscaler.backends.orphans import log_of, orphans
from penstock.autoscaler.backends.running import Running
from penstock.autoscaler.backends.seats import SEAT, Seats
from penstock.clock import monotonic_s
from penstock.clock import now as unix_now
from penstock.errors import ConfigError
from penstock.policy.placing import NoSeat, Seat
from penstock.processes.handle import Handle
from penstock.processes.lastwords import how
from penstock.processes.starter import Cold, Starter
from penstock.processes.warm import Warm
from penstock.settings import Settings
from penstock.store.elastic import Elastic, Slot, Term

log = structlog.get_logger(__name__)

#: A worker that is told to drain is killed so long after its own limit for it, seconds: its supervisor comes first.
MARGIN_S = 10.0
#: What another machine has placed and nobody has had for so long is started here, seconds: a worker takes its slot
#: before it loads anything, so that machine, or its container, is gone.
ELSEWHERE_S = 30.0


class Local:
    """``command`` starts a worker (``penstock worker``), in ``env``; its output goes to ``logs``.

    ``warm`` starts all but the first ones, where there is one. ``say`` gets a line for each thing that a person should
    know; ``on_start`` and ``on_end`` hear of each process.
    """

    name = "local"

    def __init__(
        self,
        settings: Settings,
        elastic: Elastic,
        *,
        command: Sequence[str],
        env: Mapping[str, str],
        logs: Path,
        seats: Seats | None = None,
        warm: Warm | None = None,
        say: Callable[[str], None] | None = None,
        on_start: Callable[[Running], None] = lambda _: None,
        on_end: Callable[[Running], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._elastic = elastic
        self._command = tuple(command)
        self._env = dict(env)
        self._logs = logs
        self._seats = seats or Seats(settings, inventory.machine())
        self._cold: Starter = Cold()
        self._warm = warm
        self._warmed = False
        self._say = say or (lambda line: log.warning(line, action="local.worker"))
        self._on_start, self._on_end = on_start, on_end
        self._host = socket.gethostname()
        self._running: dict[str, Running] = {}
        #: What was written down of those that were started here.
        self._placed: dict[str, Mapping[str, Any]] = {}
        self._crashes: dict[str, Crashes] = {}
        #: Slots for which there is no room, and why.
        self._no_seat: dict[str, str] = {}
        #: Since when nobody has had what another machine has placed, by slot and fence.
        self._unheld: dict[tuple[str, str], float] = {}
        self._looked = False

    # The contract -----------------------------------------------------------------------------------------------

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        """See ``Backend.realise``. Slots that another machine has placed are left to it, and to their workers, for as
        long as somebody has them."""
        mine = {slot.id: slot for slot in slots if self._is_mine(slot)}
        self._adopt(mine)
        gone = [*self._reap(mine), *self._left_behind(slots)]
        self._no_seat = {}
        for id, running in self._running.items():
            slot = mine.get(id)
            if slot is None or slot.state == "draining" or not _same_start(slot, running):
                self._end(running, slot, term)
        for slot in mine.values():
            if slot.id in self._running or slot in gone:
                continue
            if slot.place is None and slot.worker is not None:
                continue  # somebody has taken it whom no backend has started: it sees for itself
            if slot.state == "draining" or slot.worker is not None:
                gone.append(slot)
            elif self._crashes_of(slot.pool).may_start(monotonic_s()):
                self._start(slot, slots, term)
        if self._warm is not None and self._warmed:
            self._warm.prepare()  # it may have died: the next worker is to be forked, not the one after that
        stuck = {
            slot.id: reason
            for slot in mine.values()
            if slot.state != "draining" and slot.ready_at is None and (reason := self._why(slot))
        }
        return Realised(gone=gone, stuck=stuck)

    def follow(self) -> None:
        """See ``Backend.follow``."""
        for id in [id for id, running in self._running.items() if running.handle.ended()]:
            self._drop(id)

    def room(self, pool: str, slots: Sequence[Slot]) -> int:
        """See ``Backend.room``."""
        seated = self._seated(slots)
        return sum(slot.pool == pool for slot in seated) + isinstance(self._seats.free(pool, seated), Seat)

    def close(self) -> None:
        """Let go of the processes: they go on."""
        for running in self._running.values():
            running.close()
        self._running = {}
        if self._warm is not None:
            self._warm.close()

    # Beyond it ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Running]:
        """The processes that run now, as far as was seen at the last call."""
        return list(self._running.values())

    def ask_all(self) -> None:
        """Ask every worker to drain and end: nobody will be here to do it later."""
        for running in self._running.values():
            running.ask()

    def ended(self) -> bool:
        """Whether all of them have ended; kills who was asked and is over its time."""
        for id, running in list(self._running.items()):
            if running.handle.ended():
                self._drop(id)
            else:
                running.insist()
        return not self._running

    def kill_all(self) -> None:
        """At once, with all that they started."""
        for running in self._running.values():
            running.handle.kill()

    # Steps ------------------------------------------------------------------------------------------------------

    def _is_mine(self, slot: Slot) -> bool:
        # One that has a worker and no place was taken by somebody that no backend has started.
        return bool((slot.place or {}).get("host", self._host) == self._host)

    def _left_behind(self, slots: Sequence[Slot]) -> list[Slot]:
        """What another machine has placed, and nobody has any more: it is gone, or is called otherwise by now, as a
        container that was made anew. Should it come back all the same, its workers find another word in their rows."""
        now = monotonic_s()
        unheld = [slot for slot in slots if slot.worker is None and not self._is_mine(slot)]
        self._unheld = {
            (slot.id, slot.fence or ""): self._unheld.get((slot.id, slot.fence or ""), now) for slot in unheld
        }
        return [slot for slot in unheld if now - self._unheld[slot.id, slot.fence or ""] > ELSEWHERE_S]

    def _adopt(self, mine: Mapping[str, Slot]) -> None:
        """Find what a predecessor has started."""
        unknown = [slot for slot in mine.values() if slot.place and slot.id not in self._running]
        for slot in unknown:
            place = slot.place or {}
            if "pid" in place and (handle := Handle.find(int(place["pid"]), float(place["born_at"]))) is not None:
                self._adopted(slot, handle)
        if not self._looked and any(slot.id not in self._running for slot in unknown):
            left = [slot for slot in unknown if slot.id not in self._running]
            found = orphans(left, self._logs)
            for slot in left:
                if slot.id in found:
                    self._adopted(slot, Handle(found[slot.id]))
        self._looked = True

    def _adopted(self, slot: Slot, handle: Handle) -> None:
        named = Named.read(slot.place or {}, slot.pool)
        running = Running(
            slot.id,
            slot.pool,
            slot.fence or "",
            named,
            handle,
            log=log_of(self._logs, named),
            grace_s=self._grace_s,
            started_at=monotonic_s() - max(0.0, unix_now() - handle.born_at),
        )
        running.asked = bool((slot.place or {}).get("asked"))
        self._running[slot.id] = running
        self._on_start(running)
        log.info("worker found again", action="local.adopted", slot=slot.id, pid=handle.pid, name=named.name)

    def _reap(self, mine: Mapping[str, Slot]) -> list[Slot]:
        gone = []
        for id, running in list(self._running.items()):
            for line in running.news():
                self._say(line)
            slot = mine.get(id)
            if slot is not None and slot.ready_at is not None and slot.state != "draining" and not running.ready:
                running.ready = True
                self._crashes_of(slot.pool).came_up()
                self._warm_up()
            if not running.handle.ended():
                continue
            self._drop(id)
            if slot is not None and slot.state != "draining" and _same_start(slot, running) and not running.asked:
                self._died(running)
            if slot is not None and _same_start(slot, running):
                gone.append(slot)
        return gone

    def _died(self, running: Running) -> None:
        if running.handle.status is None and self._warm is not None:
            running.handle.status = self._warm.status(running.handle.pid)
        words = running.last_words() or how(running.handle.status)
        wait_s = self._crashes_of(running.pool).died(
            lived_s=running.lived_s,
            was_ready=running.ready,
            status=running.handle.status,
            words=words,
            now=monotonic_s(),
        )
        self._say(
            f"{running.name} {how(running.handle.status)}; starting it again in {wait_s:g} s (log: {running.log})"
        )

    def _end(self, running: Running, slot: Slot | None, term: Term) -> None:
        if running.asked:
            running.insist()
            return
        # Written down first: a second signal, from a successor, would not be taken for a repetition.
        if slot is not None and slot.state == "draining":
            place = {**(slot.place or {}), "asked": True}
            if not self._elastic.place(slot.id, place, term=term):
                return
        running.ask()

    def _start(self, slot: Slot, slots: Sequence[Slot], term: Term) -> None:
        seat = self._seats.free(slot.pool, [each for each in self._seated(slots) if each.id != slot.id])
        if isinstance(seat, NoSeat):
            self._no_seat[slot.id] = seat.reason
            return
        named = Named.free(slot.pool, self._taken(slots))
        fence = uuid.uuid4().hex
        place: dict[str, Any] = {"host": self._host, **named.as_json(), SEAT: seat.as_json()}
        if not self._elastic.place(slot.id, place, term=term, fence=fence):
            return
        log_file = log_of(self._logs, named)
        argv, env = words_of(self._command, self._settings, slot, named, fence)
        env = {**self._env, **self._seats.environ(self._env, seat), **env}
        try:
            private.folder(self._logs)
            running = Running.start(self._starter, slot, fence, named, argv, env, log=log_file, grace_s=self._grace_s)
        except (OSError, ConfigError) as error:  # no memory, descriptors or numbers for a process, no place for its log
            words = f"{named.name} could not be started: {error}"
            wait_s = self._crashes_of(slot.pool).died(
                lived_s=0.0, was_ready=False, status=None, words=words, now=monotonic_s()
            )
            self._say(f"{words}; next try in {wait_s:g} s")
            return
        self._running[slot.id] = running
        self._crashes_of(slot.pool).started(now=monotonic_s())
        self._on_start(running)
        self._placed[slot.id] = place
        place |= {"pid": running.handle.pid, "born_at": running.handle.born_at}
        self._elastic.place(slot.id, place, term=term)
        log.info("worker started", action="local.started", slot=slot.id, pid=running.handle.pid, name=named.name)

    def _taken(self, slots: Sequence[Slot]) -> list[Named]:
        rows = [Named.read(slot.place, slot.pool) for slot in slots if slot.place and self._is_mine(slot)]
        return [*rows, *(running.named for running in self._running.values())]

    @property
    def _starter(self) -> Starter:
        """The first ones are started cold: what others are forked from would take the machine from them."""
        return self._warm if self._warm is not None and self._warmed else self._cold

    def _warm_up(self) -> None:
        """The first worker is ready: from now on there is time for what the next ones are forked from."""
        if self._warm is not None and not self._warmed:
            self._warmed = True
            self._warm.prepare()

    def _seated(self, slots: Sequence[Slot]) -> list[Slot]:
        """This machine's slots with their places, those among them that were given since the rows were read."""
        placed = ((slot, self._placed.get(slot.id, slot.place)) for slot in slots if self._is_mine(slot))
        return [replace(slot, place=place) for slot, place in placed if slot.id in self._running or slot.place]

    def _why(self, slot: Slot) -> str:
        """Why its worker does not come up; empty: there is no reason."""
        return self._no_seat.get(slot.id, "") or self._crashes_of(slot.pool).reason

    def _drop(self, id: str) -> None:
        running = self._running.pop(id)
        self._placed.pop(id, None)
        for line in running.news():
            self._say(line)
        running.close()
        self._on_end(running)

    def _crashes_of(self, pool: str) -> Crashes:
        return self._crashes.setdefault(pool, Crashes())

    @property
    def _grace_s(self) -> float:
        return self._settings.worker.drain_s + MARGIN_S


def _same_start(slot: Slot, running: Running) -> bool:
    return (slot.fence or "") == running.fence
