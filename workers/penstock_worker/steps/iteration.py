"""The device thread's loop in a worker that serves step-wise models: observe, decide, obey, at each step boundary.

``policy.generation`` decides; the batching policy still decides what is in a batch of whole-batch models; ``sequences``
does what concerns the model. A worker without step-wise models does not come here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from penstock import clock
from penstock.lane import Lane, queue_name
from penstock.policy import generation as policy
from penstock.policy.latency import LatencyBook
from penstock.policy.suspicion import open_lines
from penstock.settings import Lanes
from penstock.stepwise import StepModel
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.meter import Meter
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.steps.groups import Group
from penstock_worker.steps.sequences import Sequences

log = structlog.get_logger(__name__)

#: An idle loop looks around at least so often, seconds.
IDLE_S = 1.0
#: How long a batching policy that holds back is asked again after at most, seconds, while nothing else runs.
HOLD_S = 0.005
#: Weight with which the longest interactive batch seen fades, per batch.
FADE = 0.98


class Iteration:
    """``run`` is the thread's work; it returns when the batcher is closed and nothing runs any more."""

    def __init__(
        self,
        models: Mapping[str, StepModel],
        *,
        sequences: Sequences,
        batcher: Batcher,
        lanes: Lanes,
        namespace: str,
        latency: LatencyBook,
        run_batch: Callable[[Batch], Run | None],
        meter: Meter | None = None,
    ) -> None:
        self._models = models
        self._sequences = sequences
        self._batcher = batcher
        self._lanes = lanes
        self._run_batch = run_batch
        self._meter = meter
        self._queues = {(name, lane): queue_name(namespace, name, lane) for name in models for lane in Lane}
        #: Of a step-wise model it holds how long a step takes, by the sequences in it.
        self._latency = latency
        self._shares = policy.Shares()
        self._served_at: dict[tuple[str, Lane], float] = {}
        self._batch_s = self._batch_at = 0.0
        self._drain_at: float | None = None

    def drain_until(self, mono: float) -> None:
        """What still runs at this time is given back at its next step boundary. From any thread."""
        self._drain_at = mono

    def run(self) -> None:
        """Until closed and drained."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """One turn: who is over leaves, then one decision is made and obeyed. ``False``: closed, and nothing runs."""
        for group in list(self._sequences.groups.values()):
            self._sequences.dismiss(group)
        self._count()
        if self._batcher.closed:
            if not self._sequences.groups:
                return False
            if self._drain_at is not None and clock.monotonic_s() >= self._drain_at:
                count = self._sequences.give_back()
                log.info("sequences given back", action="steps.given_back", count=count)
                return False
        self._decide()
        return True

    def _decide(self) -> None:
        # Both before the snapshot, so that whoever comes after it is noticed.
        seen, urgent = len(self._batcher), self._batcher.waiting_in(Lane.INTERACTIVE)
        snapshot = self._snapshot()
        decision = policy.decide(snapshot)
        if isinstance(decision, policy.Batch) and not self._batch():
            # The batching policy waits for a fuller batch: meanwhile something else may run.
            rest = [line for line in snapshot.lines if line.slots is not None]
            decision = policy.decide(_without_batches(snapshot, rest))
            if isinstance(decision, policy.Idle):
                self._batcher.wait(HOLD_S, seen=len(self._batcher))
        match decision:
            case policy.Begin():
                self._begin(decision)
            case policy.Step():
                self._step(decision, urgent)
            case policy.Idle():
                if not self._batcher.revive():
                    tried_in_s = self._batcher.revive_in_s()
                    self._batcher.wait(IDLE_S if tried_in_s is None else tried_in_s, seen=seen)

    # Obey -----------------------------------------------------------------------------------------------------

    def _begin(self, decision: policy.Begin) -> None:
        group = self._sequences.groups.get(decision.group) if decision.group is not None else None
        reason = "begin" if group is None else "join"
        batch = self._batcher.admit(decision.model, decision.lane, decision.count, reason)
        if batch.items:
            batch.beside = self._sequences.active
            self._served_at[decision.model, decision.lane] = clock.monotonic_s()
            known = set(self._sequences.groups)
            self._sequences.admit(batch, group)
            if self._meter is not None and any(item.id in self._sequences.held for item in batch.items):
                self._meter.begun(decision.model, reason)
            for id in self._sequences.groups.keys() - known:
                self._shares.enter(id)
            self._count()

    def _batch(self) -> bool:
        batch = self._batcher.take(wait=False, beside=self._sequences.active)
        if batch is None:
            return False
        started = clock.monotonic_s()
        run = self._run_batch(batch)
        took_s = clock.monotonic_s() - started
        self._batch_at = started + took_s
        for lane in {item.lane for item in batch.items}:
            self._served_at[batch.model.name, lane] = started + took_s
            self._shares.charge((batch.model.name, lane), took_s)
        if run is not None and any(item.lane is Lane.INTERACTIVE for item in batch.items):
            self._batch_s = max(self._batch_s * FADE, took_s)
        return True

    def _step(self, decision: policy.Step, urgent: int) -> None:
        group = self._sequences.groups[decision.group]
        for _ in range(decision.most):
            size = len(group.members)
            expected_s = self._latency.line(group.model.name).predict(size)
            known = set(self._sequences.groups)
            took_s = self._sequences.step(group, expected_s)
            if not self._latency.first(group.model.name, size):
                self._latency.observe(group.model.name, size, took_s)
            if self._meter is not None:
                self._meter.stepped(group.model.name, size, took_s)
            self._shares.charge(group.id, took_s)
            for id in self._sequences.groups.keys() - known:
                # It was split.
                self._shares.enter(id)
                if self._meter is not None:
                    self._meter.begun(group.model.name, "split")
            self._sequences.dismiss(group)
            if group.id not in self._sequences.groups:
                return
            # More than when the decision was made: somebody came whom it did not know of.
            if self._batcher.waiting_in(Lane.INTERACTIVE) > urgent or self._batcher.closed:
                return

    # Observe --------------------------------------------------------------------------------------------------

    def _snapshot(self) -> policy.Snapshot:
        mono = clock.monotonic_s()
        ahead = clock.now() - mono
        groups = [self._group(group, ahead) for group in self._sequences.groups.values()]
        lines = []
        waiting, suspects = self._batcher.waiting(), self._batcher.suspects()
        held = list(self._sequences.held.values())
        may_begin = open_lines(
            [(name, lane) for name, lane, _, _ in waiting],
            suspects,
            held=len(held),
            holds_suspect=any(member.item.suspect for member in held),
            now=mono,
        )
        for name, lane, size, head in waiting:
            key = (name, lane)
            slots = None
            if (model := self._models.get(name)) is not None:
                slots = policy.free_slots(lane, groups, name, model.parked)
            elif lane is Lane.BACKGROUND:
                self._shares.enter(key)
            if key not in may_begin:
                continue
            lines.append(
                policy.Line(
                    name,
                    lane,
                    size,
                    since=max(head.arrived_at, self._served_at.get(key, 0.0) if slots is not None else self._batch_at),
                    due_at=self._due_at(head, head.arrived_at, ahead),
                    served_s=self._shares.of(key),
                    slots=slots,
                    max_size=model.batching.max_size if model is not None else 1,
                )
            )
        active = {*self._sequences.groups, *((name, lane) for name, lane, _, _ in waiting)}
        self._shares.keep(active, returning=self._served_at.keys())
        return policy.Snapshot(
            mono,
            groups,
            lines,
            interactive_target_s=self._lanes.interactive.target,
            background_target_s=self._lanes.background.target,
            batch_s=self._batch_s,
        )

    def _group(self, group: Group, ahead: float) -> policy.Group:
        members = group.members.values()
        return policy.Group(
            group.id,
            group.model.name,
            group.lane,
            len(members),
            due_at=min(self._due_at(m.item, m.started_mono, ahead) for m in members),
            ran_at=group.ran_at,
            served_s=self._shares.of(group.id),
            step_s=self._latency.line(group.model.name).bound(len(members)),
            room=self._room(group),
            slot=group.slot,
        )

    def _room(self, group: Group) -> int:
        """How many may still join: what its slot has left."""
        if not group.model.joins():
            return 0
        held = sum(len(other.members) for other in self._sequences.groups.values() if other.slot == group.slot)
        return max(0, group.model.batching.max_size - held)

    def _due_at(self, item: Item, since: float, ahead: float) -> float:
        """When it should be done, on the monotonic clock: its lane's target, or its own deadline if that is earlier, or
        when it should begin for its run to be in time."""
        lane = self._lanes.interactive if item.lane is Lane.INTERACTIVE else self._lanes.background
        due_at = since + lane.target
        own_at = item.deadline_at if item.start_by is None else item.start_by
        return due_at if own_at is None else min(due_at, own_at - ahead)

    def _count(self) -> None:
        """Tell the batcher what has begun, for the quotas that it gives to the transport."""
        begun = dict.fromkeys(self._queues.values(), 0)
        for group in self._sequences.groups.values():
            begun[self._queues[group.model.name, group.lane]] += len(group.members)
        self._batcher.room.begun = begun


def _without_batches(snapshot: policy.Snapshot, lines: list[policy.Line]) -> policy.Snapshot:
    return policy.Snapshot(
        snapshot.now,
        snapshot.groups,
        lines,
        interactive_target_s=snapshot.interactive_target_s,
        background_target_s=snapshot.background_target_s,
        batch_s=snapshot.batch_s,
    )
