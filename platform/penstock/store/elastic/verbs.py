"""``Elastic``: the verbs on leaders, slots and scaling records, each documented by what it promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.policy.leadership import AUTOSCALER
from penstock.store.elastic import leader, records, rollouts
from penstock.store.elastic import slots as rows
from penstock.store.elastic.leader import Leadership, Term
from penstock.store.elastic.records import Change, Minute
from penstock.store.elastic.rollouts import RolloutOf
from penstock.store.elastic.slots import NewSlot, Slot
from penstock.store.engine import Database


class Elastic:
    """``Store.elastic``. Its verbs raise, and may be repeated, as those of ``Store``.

    ``name`` is that of a leadership, ``term`` what a leader acts under.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    # Leaders ----------------------------------------------------------------------------------------------------

    def leadership(self, name: str = AUTOSCALER) -> Leadership | None:
        """Who leads; ``None``: nobody ever has."""
        return leader.find(self._db, name)

    def leaderships(self) -> dict[str, Leadership]:
        """All that there ever were, by name: those who look after some pools only have names of their own."""
        return leader.every(self._db)

    def lead(self, name: str, holder: str, seen: Mapping[str, Leadership]) -> Term | None:
        """Take over from whoever leads any of the pools that ``name`` names, as all of them were ``seen``. ``None``:
        one of them has beaten since, or somebody was quicker. ``holder`` must be another name in each life of each
        process."""
        return leader.lead(self._db, name, holder, seen)

    def wait(self, name: str, seen: Leadership | None, state: Mapping[str, Any]) -> bool:
        """Have ``state`` say, where nobody leads under this name, that a candidate waits for a rival. ``False``, and
        nothing is said: its row is another one than was ``seen``."""
        return leader.wait(self._db, name, seen, state)

    def beat(self, term: Term, *, state: Mapping[str, Any] | None = None) -> bool:
        """Say that the leader lives, and with ``state`` what a successor needs to go on. ``False``: it is deposed."""
        return leader.beat(self._db, term, state)

    def resign(self, term: Term, *, state: Mapping[str, Any] | None = None) -> bool:
        """End this term, so that the next one need not wait for a lease. ``False``: it is deposed."""
        return leader.resign(self._db, term, state)

    # Slots: the leader's side -------------------------------------------------------------------------------------

    def slots(self, pool: str | None = None) -> list[Slot]:
        """All slots, or those of a pool, the oldest first."""
        return rows.slots(self._db, pool)

    def change(
        self,
        term: Term,
        *,
        add: Sequence[NewSlot] = (),
        set: Mapping[str, str] = {},
        reason: str = "",
        now: float,
    ) -> None:
        """Add slots, and ``set`` the states of others by id, all or nothing. Raises ``Deposed``, and changes nothing,
        when ``term`` is over.

        What drains goes on draining, whatever is set; ids that there are no longer are passed over.
        """
        rows.change(self._db, term, add=add, set=set, reason=reason, now=now)

    def place(self, id: str, place: Mapping[str, Any], *, term: Term, fence: str | None = None) -> bool:
        """Note what realises a slot: a process and its host, the name of a Job. ``False``, and nothing is noted, when
        the term is over or there is no such slot.

        With ``fence`` it announces a start, and is called before it: from now on only who brings this word takes the
        slot, and the one that had it has it no longer. ``False`` as well when the slot drains: then nothing is to be
        started.
        """
        return rows.place(self._db, id, place, term=term, fence=fence)

    def gone(self, slots: Iterable[Slot], *, term: Term) -> list[str]:
        """What realised these slots, as they were read, is gone: draining ones are removed, the others are without a
        worker, a place and a fence. The ids that this changed: not those that have another worker or another start by
        now. Raises ``Deposed``."""
        return rows.gone(self._db, slots, term=term)

    # Slots: the worker's side ---------------------------------------------------------------------------------------

    def take(self, id: str, worker: str, *, fence: str | None = None) -> Slot | None:
        """Have a slot, before anything is consumed. ``None``: there is no such slot, it drains, it is another worker's,
        or another start of a process is meant.

        With the ``fence`` that the worker before has brought it is taken over from it: a supervisor gives all its
        children the same.
        """
        return rows.take(self._db, id, worker, fence)

    def ready(self, id: str, worker: str, *, now: float) -> bool:
        """Say that the worker's models are loaded and warmed; the first time counts. ``False``: it has not the slot."""
        return rows.ready(self._db, id, worker, now=now)

    def leave(self, id: str, worker: str) -> bool:
        """Have the slot no longer, at the end. ``False``: it was not this worker's."""
        return rows.leave(self._db, id, worker)

    def slot(self, id: str) -> Slot | None:
        """One slot; ``None``: it is there no longer."""
        return rows.slot(self._db, id)

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """The states of those of these slots that there are."""
        return rows.states(self._db, ids)

    # Rollouts ---------------------------------------------------------------------------------------------------

    def rollouts(self) -> dict[str, RolloutOf]:
        """What the workers of each pool are to be, by pool. Pools that were never rolled out are not among them."""
        return rollouts.all(self._db)

    def roll(
        self, pool: str, revision: str, spec: Mapping[str, Any], *, share: float = 1.0, surge: int = 1, now: float
    ) -> RolloutOf:
        """Have the workers of a pool become those of ``revision``. The leader sees to it; nothing is waited for.

        ``spec`` is what their slots are given. What they were before is remembered, for what is not of it yet and for
        ``undo``: where only a share of them was to be of the last revision, that is the one before it. The same
        revision again, with the same spec, changes share and surge alone; with another spec it raises ``InvalidInput``.
        """
        return rollouts.roll(self._db, pool, revision, spec, share=share, surge=surge, now=now)

    def steer(
        self,
        pool: str,
        *,
        share: float | None = None,
        surge: int | None = None,
        paused: bool | None = None,
        now: float,
    ) -> RolloutOf | None:
        """Change how a rollout goes on; ``None``: there is none."""
        return rollouts.steer(self._db, pool, share=share, surge=surge, paused=paused, now=now)

    def undo(self, pool: str, revision: str, *, now: float) -> RolloutOf | None:
        """Have all workers become those of the revision before ``revision``, which is the one that is undone: done
        already, it is not done again. ``None``: there is no rollout."""
        return rollouts.undo(self._db, pool, revision, now=now)

    # Records ----------------------------------------------------------------------------------------------------

    def record(self, minutes: Sequence[Minute]) -> None:
        """Keep what was seen. The same minute of the same leader again replaces it."""
        records.record(self._db, minutes)

    def history(self, pool: str, *, since: float, until: float) -> list[Minute]:
        """The minutes that began from ``since`` to before ``until``, in order, with the parts of several leaders added
        up; minutes of which nothing was seen are missing."""
        return records.history(self._db, pool, since=since, until=until)

    def changed(self, *changes: Change) -> None:
        """Keep decisions."""
        records.changed(self._db, changes)

    def changes(self, pool: str | None = None, *, limit: int = 100) -> list[Change]:
        """The last decisions about a pool, or about all, the newest first."""
        return records.changes(self._db, pool, limit=limit)

    def prune(self, *, before: float, limit: int) -> int:
        """Remove about ``limit`` records from before ``before``: call again until the answer is 0."""
        return records.prune(self._db, before=before, limit=limit)
