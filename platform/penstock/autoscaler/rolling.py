"""A pool's slots while its workers become those of another revision: from a decision to changes.

``policy.rollout`` decides; here slots become its members, and its steps become slots again. A pool without a rollout,
or with one that is through, is ``fleet.change``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from penstock import clock
from penstock.autoscaler.fleet import Change, change, phase_of
from penstock.policy.rollout import Member, Rollout, Seen, Step, keepers, step
from penstock.policy.scaling import Candidate, Decision, victims
from penstock.store import Store
from penstock.store.elastic import NewSlot, RolloutOf, Slot
from penstock.views.fleet import registered

#: How long it is believed which versions jobs ask for and who serves them, seconds.
KNOWN_S = 2.0

#: A model and a version of it.
Version = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Versions:
    """Those that open jobs ask for, and those that each worker serves, by its instance."""

    asked: frozenset[Version] = frozenset()
    serves: Mapping[str, frozenset[Version]] = field(default_factory=dict)


def revision_of(slot: Slot, outdated: Collection[str] = ()) -> str:
    """Of which revision a slot's worker is; empty: of what the settings say. What would be started otherwise by now
    (its template has changed) is of another one, whatever it is called."""
    revision = str(slot.spec.get("revision", ""))
    return f"{revision} (outdated)" if slot.id in outdated else revision


def is_through(rollout: RolloutOf, slots: Sequence[Slot], outdated: Collection[str] = ()) -> bool:
    """Whether nothing is left to do: workers of it come up, and no slot is of another revision, nor has the place of
    one."""
    whole = rollout.share >= 1 and rollout.proven_at is not None
    return whole and all(revision_of(slot, outdated) == rollout.revision for slot in slots)


def renewal(pool: str, known: RolloutOf | None, *, surge: int) -> RolloutOf:
    """The rollout that nobody has asked for: to what the pool is, from what it was when its template was another one,
    which nobody can start any more."""
    revision, spec = (known.revision, known.spec) if known is not None else ("", {})
    paused = known is not None and known.paused
    return RolloutOf(pool, revision, spec, revision, spec, 1.0, surge, paused, 0.0, 0.0, proven_at=0.0)


def rolled(
    decision: Decision,
    slots: Sequence[Slot],
    rollout: RolloutOf,
    *,
    busy: Collection[str],
    most: int,
    versions: Versions,
    outdated: Collection[str] = (),
    stuck: str = "",
) -> tuple[Change, Step]:
    """What makes of a pool's slots what was decided, with a step of the rollout in it: PURE."""
    there = [slot for slot in slots if slot.state != "draining"]
    members = [
        Member(slot.id, revision_of(slot, outdated), phase, slot.made_at)
        for slot in slots
        if (phase := phase_of(slot, busy)) != "draining"
    ]
    serves = {slot.id: versions.serves.get(slot.worker or "", frozenset()) for slot in there}
    kept = keepers(members, serves, versions.asked, rollout.revision)
    taken = step(
        Seen(
            rollout=Rollout(
                revision=rollout.revision,
                before=rollout.previous,
                share=rollout.share,
                surge=rollout.surge,
                paused=rollout.paused,
                proven=rollout.proven_at is not None,
            ),
            members=[
                Member(member.id, member.revision, member.phase, member.since, keep=member.id in kept)
                for member in members
            ],
            target=decision.target,
            most=most,
            draining=len(slots) - len(there),
            stuck=stuck,
        )
    )
    set_ = dict.fromkeys(taken.drain, "draining")
    add: list[NewSlot] = []
    parked = [slot for slot in there if slot.state == "parked" and slot.id not in set_]
    for revision, count in taken.add.items():
        # Loaded ones first: they come at once.
        same = [slot for slot in parked if revision_of(slot, outdated) == revision]
        woken = sorted(same, key=lambda slot: (slot.ready_at is None, slot.made_at))[:count]
        set_ |= dict.fromkeys((slot.id for slot in woken), "wanted")
        parked = [slot for slot in parked if slot not in woken]
        add += [_new(rollout, revision) for _ in range(count - len(woken))]
    short = decision.parked - len(parked)
    if short > 0:
        proven = rollout.share >= 1 and rollout.proven_at is not None
        most_are = rollout.revision if proven else rollout.previous
        add += [_new(rollout, most_are, state="parked") for _ in range(short)]
    elif short < 0:
        spare = [Candidate(slot.id, "parked", slot.made_at) for slot in parked if slot.id not in kept]
        set_ |= dict.fromkeys(victims(spare, -short), "draining")
    return Change(add=add, set=set_), taken


class Rollouts:
    """What people have asked for, and the changes that follow. ``look`` once a turn; raises ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rollouts: Mapping[str, RolloutOf] = {}
        self._versions = Versions()
        self._known_at = float("-inf")

    def look(self) -> None:
        """Read the rows: one for each pool that was ever rolled out."""
        self._rollouts = self._store.elastic.rollouts()

    def change(
        self,
        decision: Decision,
        slots: Sequence[Slot],
        *,
        pool: str,
        busy: Collection[str],
        room: int,
        surge: int = 1,
        outdated: Collection[str] = (),
        stuck: str = "",
    ) -> tuple[Change, Step | None]:
        """What makes of a pool's slots what was decided, and the step of its rollout, where one is under way.

        ``room`` is for how many workers there is room, those that drain among them, whatever the pool's max: while a
        rollout lasts, there may be ``surge`` workers more than that. ``outdated`` are slots whose workers would be
        started otherwise by now: they are rolled out as if somebody had asked for it.
        """
        rollout = self._rollouts.get(pool)
        if rollout is None or is_through(rollout, slots):
            rollout = renewal(pool, rollout, surge=surge)
        if is_through(rollout, slots, outdated):
            return change(decision, slots, pool=pool, busy=busy, spec=rollout.spec), None
        return rolled(
            decision,
            slots,
            rollout,
            busy=busy,
            most=room,
            versions=self._known(),
            outdated=outdated,
            stuck=stuck,
        )

    def _known(self) -> Versions:
        """Read only while a rollout is under way."""
        if clock.monotonic_s() - self._known_at > KNOWN_S:
            asked = frozenset((count.model, count.version or "") for count in self._store.asked())
            workers = registered(self._store, now=clock.now()).live
            self._versions = Versions(
                asked,
                {
                    worker.instance: frozenset((model, served.version) for model, served in worker.served.items())
                    for worker in workers
                },
            )
            self._known_at = clock.monotonic_s()
        return self._versions


def _new(rollout: RolloutOf, revision: str, *, state: str = "wanted") -> NewSlot:
    return NewSlot(pool=rollout.pool, state=state, spec=rollout.spec_of(revision))
