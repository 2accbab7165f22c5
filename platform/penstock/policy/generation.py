"""What a device does at a step boundary: begin newcomers, run a short batch, or step a running group.

Iteration-level scheduling as in Orca and vLLM, with preemption between steps as in REEF. In this order:

1. whoever has waited for a turn longer than its patience, the longest first: a group, or a line (nobody starves);
2. interactive work, most urgent first: a waiting batch, newcomers of a step-wise model, then running groups;
3. background work, least served first: a line, newcomers, or a group that is parked or running.

A group that gets the device keeps it for ``quantum`` steps, or until something interactive arrives, which the shell
looks for at each boundary. So an interactive request waits for at most one step of a background group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from penstock.lane import Lane

#: A quantum never has more steps than this: fairness, deadlines and cancellation are then looked at again anyway.
MOST_STEPS = 64
#: A background group or line that was passed over for this share of its lane's target goes first for one turn ("age one
#: level per long target / 4"); an interactive one, that got nothing because of more urgent ones, likewise.
PATIENCE = 0.25


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of one ``begin`` that step together. ``due_at`` is its most urgent member's, clock of ``now``."""

    id: int
    model: str
    lane: Lane
    size: int
    due_at: float
    #: When it last had the device.
    ran_at: float
    #: Device seconds it has had, on the scale of ``Shares``.
    served_s: float
    #: Predicted seconds of one step.
    step_s: float
    #: Sequences that may still join it; 0 where the model cannot join.
    room: int = 0
    #: Groups that a fault has made of one share its slot; ``None``: it has one of its own.
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs that wait for a (model, lane), since ``since``: when the first came, or when it was last served; of whole
    batches, when the last one of any model ran, since the batching policy decides between those.

    ``slots`` says how many groups of a step-wise model may still begin; ``None`` marks a model of whole batches.
    """

    model: str
    lane: Lane
    size: int
    since: float
    due_at: float
    served_s: float
    slots: int | None = None
    #: Most sequences of one group.
    max_size: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision may depend on.

    ``targets`` are the lanes' latency targets; ``batch_s`` bounds the time of an interactive batch that may come
    (0: none has been seen); ``guard_s`` is kept free for everything that is not the device's work.
    """

    now: float
    groups: Sequence[Group]
    lines: Sequence[Line]
    interactive_target_s: float
    background_target_s: float
    batch_s: float = 0.0
    guard_s: float = 0.005


@dataclass(frozen=True, slots=True)
class Begin:
    """Take ``count`` items of the line: into the running group ``group``, or as a group of their own (``None``)."""

    model: str
    lane: Lane
    count: int
    group: int | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Let the batching policy release one batch of whole-batch models; ``lane`` is who it is for."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class Step:
    """Step this group at most ``most`` times; every other one stays parked. Stop early for interactive arrivals."""

    group: int
    most: int


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do until something arrives."""


Decision = Begin | Batch | Step | Idle


def decide(snapshot: Snapshot) -> Decision:
    """See the module's docstring."""
    # In one order: groups whose steps are long neglect each other all the time, and lines would never be served.
    aged: list[tuple[float, int, Group | Line]] = [
        *((group.ran_at, group.id, group) for group in snapshot.groups),
        *((line.since, index, line) for index, line in enumerate(snapshot.lines) if line.size),
    ]
    for since, _, one in sorted(aged, key=lambda entry: entry[:2]):
        if not _neglected(since, one.lane, snapshot):
            continue
        if isinstance(one, Group):
            # One step, not a quantum: it was passed over for good reasons.
            return Step(one.id, 1)
        groups = [group for group in snapshot.groups if group.lane is one.lane]
        if (chosen := _joining([one], groups) or _start(one, snapshot)) is not None:
            return chosen
    for lane in (Lane.INTERACTIVE, Lane.BACKGROUND):
        lines = [line for line in snapshot.lines if line.lane is lane and line.size]
        groups = [group for group in snapshot.groups if group.lane is lane]
        if (joining := _joining(lines, groups)) is not None:
            return joining
        work = _urgent(lines, groups, snapshot) if lane is Lane.INTERACTIVE else _fair(lines, groups, snapshot)
        if work is not None:
            return work
    return Idle()


def quantum(snapshot: Snapshot, step_s: float) -> int:
    """Steps in a row that leave an interactive batch in time even if nobody looked in between:
    ``max(1, floor((target - m*t_i(b_i) - guard) / t_step))``."""
    room_s = snapshot.interactive_target_s - snapshot.batch_s - snapshot.guard_s
    if step_s <= 0:
        return 1
    return max(1, min(MOST_STEPS, int(room_s / step_s)))


def free_slots(lane: Lane, groups: Iterable[Group], model: str, parked: int) -> int:
    """How many more groups of ``model`` may begin. The last slot is kept for interactive ones: background that fills
    all of them could not be preempted."""
    taken = {group.id if group.slot is None else group.slot: group.lane for group in groups if group.model == model}
    most = parked + 1
    if lane is Lane.INTERACTIVE:
        return max(0, most - len(taken))
    # With one slot there is nothing to keep free.
    mine = sum(of is Lane.BACKGROUND for of in taken.values())
    return max(0, min(max(1, most - 1) - mine, most - len(taken)))


class Shares:
    """Device seconds per key on one scale (the virtual counters of VTC, OSDI '24). Who comes, or comes back, starts at
    the least of those who are active, or where it was if that is more: nobody saves up claims while idle, and nobody
    loses a debt by leaving for a moment."""

    def __init__(self) -> None:
        self._active: dict[object, float] = {}
        self._left: dict[object, float] = {}
        self._level = 0.0

    def enter(self, key: object) -> None:
        """``key`` has work from now on. Nothing for one that has already."""
        if key not in self._active:
            self._active[key] = max(self._left.pop(key, 0.0), min(self._active.values(), default=self._level))

    def keep(self, active: Set[object], *, returning: Set[object] = frozenset()) -> None:
        """All but ``active`` have no work any more; of them, only the ``returning`` ones are remembered."""
        for key in self._active.keys() - active:
            served = self._active.pop(key)
            if key in returning:
                self._left[key] = served
            if not self._active:
                self._level = max(self._level, served)

    def charge(self, key: object, seconds: float) -> None:
        """``key`` had the device for so long."""
        if key in self._active:
            self._active[key] += seconds

    def of(self, key: object) -> float:
        """What it has had, lift included."""
        return self._active.get(key, self._level)


def _neglected(since: float, lane: Lane, snapshot: Snapshot) -> bool:
    # Interactive groups are passed over by short interactive work only, and share among themselves by urgency.
    target_s = snapshot.interactive_target_s if lane is Lane.INTERACTIVE else snapshot.background_target_s
    return snapshot.now - since > target_s * PATIENCE


def _joining(lines: Sequence[Line], groups: Sequence[Group]) -> Begin | None:
    """Newcomers that fit into a running group: they cost no state of their own and make its steps fuller."""
    for line in sorted(lines, key=lambda line: line.due_at):
        for group in groups:
            if line.slots is not None and group.model == line.model and group.room > 0:
                return Begin(line.model, line.lane, min(line.size, group.room), group.id)
    return None


def _urgent(lines: Sequence[Line], groups: Sequence[Group], snapshot: Snapshot) -> Decision | None:
    for line in sorted(lines, key=lambda line: line.due_at):
        if (chosen := _start(line, snapshot)) is not None:
            return chosen
    if groups:
        group = min(groups, key=lambda group: (group.due_at, group.id))
        return Step(group.id, quantum(snapshot, group.step_s))
    return None


def _fair(lines: Sequence[Line], groups: Sequence[Group], snapshot: Snapshot) -> Decision | None:
    """The least served; a group before a line that has had as much, since its state holds memory."""
    candidates: list[tuple[float, int, float, Group | Line]] = [
        *((group.served_s, 0, group.ran_at, group) for group in groups),
        *((line.served_s, 1, line.since, line) for line in lines),
    ]
    for _, _, _, one in sorted(candidates, key=lambda candidate: candidate[:3]):
        if isinstance(one, Group):
            return Step(one.id, quantum(snapshot, one.step_s))
        if (chosen := _start(one, snapshot)) is not None:
            return chosen
    return None


def _start(line: Line, snapshot: Snapshot) -> Begin | Batch | None:
    if line.slots is None:
        return Batch(line.lane)
    if line.slots > 0:
        return Begin(line.model, line.lane, min(line.size, line.max_size), None)
    return None
