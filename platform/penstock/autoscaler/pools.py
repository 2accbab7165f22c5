"""What an autoscaler decides about each of its pools, and writes: guarded by the term in its own transaction.

What is kept between turns is what a successor gets from the leader's row, and figures of what was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from penstock import clock
from penstock.autoscaler.backends.base import Backend, Realised
from penstock.autoscaler.fleet import Change, change, fleet_of, grouped, late_ones
from penstock.autoscaler.observe import Observation, said
from penstock.autoscaler.orders import Orders
from penstock.autoscaler.pool import Pool, told
from penstock.autoscaler.records import LOST, Records
from penstock.autoscaler.rolling import Rollouts
from penstock.autoscaler.split import Splitter, consuming
from penstock.autoscaler.starts import Starts
from penstock.autoscaler.terms import target_of, terms_of
from penstock.lane import Lane
from penstock.policy.scaling import Context, Decision, State, Terms, decide
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Slot, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a turn has found, for all pools."""

    term: Term
    seen: Observation | None
    slots: Sequence[Slot]
    by_pool: Mapping[str, Sequence[Slot]]
    #: Slots whose workers hold messages.
    busy: Collection[str]
    #: Pools that serve a model, or are named.
    served: Collection[str]
    room: Mapping[str, int]
    #: What the backend has said of the slots.
    realised: Realised
    #: No worker is wanted any more.
    winding_up: bool


class Pools:
    """``look`` at the beginning of a turn, ``decide`` about each pool, ``turned`` at the end."""

    def __init__(self, settings: Settings, store: Store, backend: Backend, orders: Orders) -> None:
        self._settings = settings
        self._store = store
        self._backend = backend
        self._orders = orders
        #: By name; of a pool whose last slot has gone nothing is kept.
        self.by_name: dict[str, Pool] = {}
        self._splitter = Splitter(orders.keep_to)
        self._rollouts = Rollouts(store)
        self._starts = Starts()
        self._records = Records(store.elastic)

    def look(self) -> None:
        """Read what workers are to become. Raises ``StoreUnavailable``."""
        self._rollouts.look()

    def decide(self, name: str, found: Found) -> bool:
        """Decide about one pool, and write it. Whether anything changed. Raises ``Deposed``, ``StoreUnavailable``."""
        own, now = found.by_pool.get(name, ()), clock.monotonic_s()
        pool = self.by_name.setdefault(name, Pool())
        terms = self._saw(name, pool, own, found, now=now)
        before = pool.decision
        decision = _decision(name, pool, terms, found, now=now)
        pool.decision, pool.state, pool.decided_at = decision, decision.state, clock.now()
        made = self._change(name, pool, own, found)
        if found.seen is not None and (load := found.seen.loads.get(name)) is not None:
            self._records.saw(name, load, pool.fleet, terms, decision, epoch=found.term.epoch, now=now)
        # That nothing changes for want of signals is told once.
        lost = decision.code == LOST and (before is None or before.code != LOST)
        self._write(name, pool, decision, own, made, lost=lost, term=found.term, now=now)
        return bool(made)

    def turned(self, slots: Sequence[Slot], *, looked: bool, term: Term) -> None:
        """All pools were decided about, and there are these slots now. Raises ``StoreUnavailable``."""
        self._starts.only({slot.id for slot in slots}, self.by_name)
        self._records.turned(looked=looked)
        by_pool = grouped(slots)
        for name, pool in self.by_name.items():
            self._split(name, pool, by_pool.get(name, ()), term=term)

    def told(self) -> dict[str, Any]:
        """For the successor, and for whoever asks for the status: plain values by name."""
        now = clock.monotonic_s()
        return {
            name: told(pool, ready_in_s=self._starts.ready_in_s(name), split=self._splitter.left(name, now=now))
            for name, pool in self.by_name.items()
        }

    def inherit(self, states: Iterable[Any], only: Collection[str]) -> None:
        """Go on with what predecessors ``told``. Another release may have written it."""
        now = clock.monotonic_s()
        for name, left in (each for state in states for each in said(said(state).get("pools")).items()):
            if only and name not in only:
                continue  # its leader had more than these
            kept = said(left)
            self.by_name[name] = Pool(state=State.from_json(said(kept.get("state")), now=now))
            self._starts.inherit(name, kept.get("ready_in_s"))
            self._splitter.inherit(name, said(kept.get("split")), now=now)

    def deposed(self) -> None:
        """Another leads: what workers were told lapses."""
        self._splitter.forget()

    def _saw(self, name: str, pool: Pool, own: Sequence[Slot], found: Found, *, now: float) -> Terms:
        """Take in what was found of a pool; the terms that it has now."""
        fresh = found.seen.loads.get(name) if found.seen is not None else None
        pool.load = fresh or pool.load
        scaler, stuck = self._settings.autoscaler, found.realised.stuck
        pool.unready, late = late_ones(own, pool.unready, start_s=scaler.start_s, now=now)
        pool.fleet = fleet_of(own, busy=found.busy, stuck=stuck, late=late)
        self._starts.saw(name, own, stuck=stuck, late=late, every_s=scaler.every_s, now=now)
        ready_in_s = self._starts.ready_in_s(name)
        return terms_of(self._settings, name, room=found.room.get(name, 1), ready_in_s=ready_in_s)

    def _change(self, name: str, pool: Pool, own: Sequence[Slot], found: Found) -> Change:
        """What makes of the slots what was decided, with a step of a rollout in it."""
        assert pool.decision is not None
        pool.step = None
        # Who starts workers rolls them, too; and nobody does where none are wanted.
        if found.winding_up or name not in found.served or self._backend.name == "external":
            return change(pool.decision, own, pool=name, busy=found.busy)
        made, pool.step = self._rollouts.change(
            pool.decision,
            own,
            pool=name,
            busy=found.busy,
            room=self._backend.room(name, found.slots),
            surge=self._settings.pool(name).surge,
            outdated=found.realised.outdated,
            stuck=pool.fleet.stuck,
        )
        return made

    def _write(
        self,
        name: str,
        pool: Pool,
        decision: Decision,
        own: Sequence[Slot],
        made: Change,
        *,
        lost: bool,
        term: Term,
        now: float,
    ) -> None:
        """Change the rows, if there is anything to change, and keep why."""
        code, reason = decision.code, decision.reason
        if pool.step is not None:
            code, reason = f"rollout.{pool.step.code}", pool.step.reason
        if made:
            self._store.elastic.change(term, add=made.add, set=made.set, reason=reason, now=clock.now())
            self._starts.ordered((slot.id for slot in made.add), now=now)
            self._orders.look(slot for slot in own if slot.id in made.set)
        if pool.step is None and pool.fleet.stuck:  # the rest of it is for those who may read SQL
            reason = f"{reason}: {pool.fleet.stuck}"
        if made or lost:
            words = {} if made else {"said": "the pool is to stay as it is"}
            before = sum(slot.state == "wanted" for slot in own)
            self._records.changed(name, decision, epoch=term.epoch, before=before, code=code, reason=reason, **words)

    def _split(self, name: str, pool: Pool, slots: Sequence[Slot], *, term: Term) -> None:
        """Have some workers keep to interactive jobs for a while, where the settings and the work are so."""
        on = self._settings.pool(name).split
        workers = consuming(slots) if on else ()
        before = self._splitter.alone(name)
        verdict = self._splitter.turn(
            name,
            pool.load,
            workers,
            on=on,
            target_s=target_of(self._settings, name, Lane.INTERACTIVE),
            now=clock.monotonic_s(),
        )
        if verdict is not None and verdict.alone != before and pool.decision is not None:
            self._records.divided(name, pool.decision, verdict, workers=len(workers), epoch=term.epoch)


def _decision(name: str, pool: Pool, terms: Terms, found: Found, *, now: float) -> Decision:
    if found.winding_up:
        why = "the autoscaler is being stopped, and its workers with it"
        # Whoever comes next begins with none, and not with what there was.
        return Decision(target=0, parked=0, state=replace(pool.state, target=0), code="stop", reason=why)
    if name not in found.served:
        why = "no model is served by this pool any more, of those that are known here"
        return Decision(target=0, parked=0, state=State(), code="pool.gone", reason=why)
    return decide(Context(now=now, terms=terms, load=pool.load, fleet=pool.fleet, state=pool.state))
