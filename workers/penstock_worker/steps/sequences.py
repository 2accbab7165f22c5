"""The running sequences of one worker: from a claimed batch to outcomes, with every fault confined.

Only the device thread calls it, except for ``overdue``, ``held`` and ``active``. Nothing here decides what runs next:
that is ``policy.generation``, obeyed by ``iteration``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from penstock import clock
from penstock.errors import AttemptTimeout, InvalidOutput, OutOfMemory, safe_text
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.payload import write_output
from penstock.results import BadAnswer
from penstock.stepwise import Progress, StepModel
from penstock_worker.execute.device import is_out_of_memory
from penstock_worker.execute.outcome import Concluder, error_record
from penstock_worker.execute.prediction import release_memory
from penstock_worker.execute.runner import Runner
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.logcontext import calling, raised
from penstock_worker.steps.groups import Group, Member

log = structlog.get_logger(__name__)

#: A call into the model that is late for a timeout is given so much more time to come back, seconds: mostly it is only
#: the step during which the time ran out.
GRACE_S = 1.0


class Worker(Protocol):
    """What the sequences need of the worker around them."""

    def settle(self, run: Run) -> None:
        """Commit, tell, acknowledge."""

    def placed(self, items: Sequence[Item]) -> None:
        """Find out of which runs these are steps, for what will be told of them."""

    def restarted(self, run: Run) -> None:
        """Get new attempt numbers for ``run.live``, in place; drops those that are not ours any more. Tells."""

    def progress(self, model: str, entries: Sequence[tuple[Item, int, str]]) -> None:
        """Tell partial output: item, index, JSON text."""

    def put_back(self, items: Sequence[Item]) -> None:
        """They can only be claimed alone: let them wait again."""

    def wake(self) -> None:
        """There is room: more may be claimed."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call into a model, now."""

    started_mono: float
    #: What it is expected to take, seconds.
    expected_s: float


class Sequences:
    """See the module's docstring."""

    def __init__(
        self,
        models: Mapping[str, StepModel],
        *,
        runner: Runner,
        concluder: Concluder,
        worker: Worker,
        max_progress_bytes: int,
    ) -> None:
        self._models = models
        self._runner = runner
        self._concluder = concluder
        self._worker = worker
        self._max_progress_bytes = max_progress_bytes
        self._ids = itertools.count(1)
        self._call: Call | None = None
        self.groups: dict[int, Group] = {}
        #: Everything that has begun, by job id; other threads may copy it.
        self.held: dict[str, Member] = {}

    @property
    def active(self) -> bool:
        """Whether anything has begun and not ended."""
        return bool(self.held)

    # Begin ----------------------------------------------------------------------------------------------------

    def admit(self, batch: Batch, group: Group | None) -> None:
        """Claim, prepare and begin: in the running ``group``, or as one of their own."""
        run = self._runner.claim(batch)
        self._worker.put_back(run.returned)
        if run.live:
            self._worker.placed(run.live)
            self._runner.prepare(run)
            self._runner.announce(run)
        if run.unfinished:
            self._worker.settle(Run(batch, unfinished=run.unfinished))
        members = [Member(item, batch.reason, run.started_at, run.started_mono) for item in run.live]
        for member in members:
            if (before := self.held.get(member.item.id)) is not None:
                # The job was taken from us and came back: that attempt is void, and nobody would find it from here on.
                before.recalled = True
            self.held[member.item.id] = member
        self._conclude([(m, m.item.error) for m in members if m.item.error is not None])
        good = [member for member in members if member.item.error is None]
        if good and not (group is not None and self._joined(group, good)):
            self._begin(self._models[batch.model.name], good, None if group is None else group.slot)

    def _joined(self, group: Group, members: Sequence[Member]) -> bool:
        try:
            with calling(group.model, group.id, [member.item for member in members]):
                self._calling(lambda: group.join(members))
        except BaseException as error:
            # Its state is as it was. Alone, or in halves, they show whose fault it is.
            log.warning("join() raised", action="model.raise", model=group.model.name, **raised(error))
            return False
        return True

    def _begin(self, model: StepModel, members: Sequence[Member], slot: int | None) -> None:
        group = Group(next(self._ids), model, Lane(members[0].item.lane), slot)
        try:
            with calling(model, group.id, [member.item for member in members]):
                self._calling(lambda: group.begin(members))
        except BaseException as error:
            self._split(group, members, error, self._begin)
        else:
            group.ran_at = clock.monotonic_s()
            self.groups[group.id] = group

    # Step -----------------------------------------------------------------------------------------------------

    def step(self, group: Group, expected_s: float) -> float:
        """One step and all that follows from it; the device seconds it took."""
        started = clock.monotonic_s()
        try:
            with calling(group.model, group.id, [member.item for member in group.members.values()]):
                answers = self._calling(group.step, expected_s)
        except BaseException as error:
            self._broken(group, error)
            return clock.monotonic_s() - started
        group.ran_at = clock.monotonic_s()
        took_s = group.ran_at - started
        for member in group.members.values():
            member.compute_s += took_s
        ended: list[tuple[Member, Any]] = []
        entries: list[tuple[Item, int, str]] = []
        for member, answer in answers:
            if not isinstance(answer, Progress):
                ended.append((member, answer))
            elif isinstance(written := self._written(answer), str):
                entries.append((member.item, member.progress, written))
                member.progress += 1
            else:
                ended.append((member, written))
        if entries:
            # Before the outcome, so that whoever sees the end can have seen the rest.
            self._worker.progress(group.model.name, entries)
        self._end(group, ended)
        return took_s

    def _written(self, progress: Progress) -> str | InvalidOutput:
        try:
            return write_output(
                progress.data,
                "progress",
                max_bytes=self._max_progress_bytes,
                fix="give Progress what is new, not all so far, or raise PENSTOCK_PROGRESS__MAX_BYTES",
            )
        except InvalidOutput as error:
            return error
        except BaseException as error:  # whatever a foreign object's own methods raise
            return InvalidOutput(f"the model's progress cannot be written as JSON: {safe_text(error)}")

    def _broken(self, group: Group, error: BaseException) -> None:
        """``step`` raised: the state is of no use. Whoever may be innocent begins again, as a new attempt."""
        members = list(group.members.values())
        self.drop(group)
        if isinstance(error, BadAnswer):
            self._conclude([(member, error) for member in members])
        else:
            self._split(group, members, error, self._restart)

    def _split(
        self,
        group: Group,
        members: Sequence[Member],
        error: BaseException,
        again: Callable[[StepModel, Sequence[Member], int], None],
    ) -> None:
        """Fail one that stands alone; try several again in halves. Out of memory ends the same way."""
        model = group.model
        oom = is_out_of_memory(error)
        if oom:
            release_memory()
        if len(members) > 1:
            middle = len(members) // 2
            again(model, members[:middle], group.slot)
            again(model, members[middle:], group.slot)
            return
        log.warning("model raised", action="model.raise", model=model.name, **raised(error))
        alone = OutOfMemory(f"the device has no memory for this item alone: {safe_text(error)}") if oom else error
        self._conclude([(member, alone) for member in members])

    def _restart(self, model: StepModel, members: Sequence[Member], slot: int) -> None:
        run = Run(Batch(type(model), [member.item for member in members], "split"))
        run.live = list(run.batch.items)
        run.started_at, run.started_mono = clock.now(), clock.monotonic_s()
        self._worker.restarted(run)
        live = set(run.live)
        for member in members:
            self._forget(member)
        fresh = [
            Member(member.item, "split", run.started_at, run.started_mono) for member in members if member.item in live
        ]
        for member in fresh:
            self.held[member.item.id] = member
        if fresh:
            self._begin(model, fresh, slot)

    # Leave ----------------------------------------------------------------------------------------------------

    def dismiss(self, group: Group) -> None:
        """Whoever is cancelled, expired or out of time leaves."""
        now, mono = clock.now(), clock.monotonic_s()
        for member in list(group.members.values()):
            item = member.item
            if member.recalled:
                self._out(group, member, JobState.CANCELLED)
            elif item.deadline_at is not None and now >= item.deadline_at:
                self._out(group, member, JobState.EXPIRED)
            elif item.timeout_s is not None and mono - member.started_mono > item.timeout_s:
                item.error = AttemptTimeout(
                    f"model {item.model!r} did not end within {item.timeout_s:g} s",
                    fix="raise the job's timeout, or have the model do less",
                )
                self._out(group, member, JobState.FAILED, error=error_record(item.error))
        if not group.members:
            self.drop(group)

    def give_back(self) -> int:
        """Everything that runs goes back to the queue: how many."""
        count = 0
        for group in list(self.groups.values()):
            for member in list(group.members.values()):
                self._out(group, member, JobState.ACCEPTED, available_at=clock.now())
                count += 1
            self.drop(group)
        return count

    def drop(self, group: Group) -> None:
        """Forget a group; whoever is still in it leaves the model's state too."""
        for member in list(group.members.values()):
            group.leave(member)
        self.groups.pop(group.id, None)

    def _out(self, group: Group, member: Member, state: JobState, **fields: Any) -> None:
        group.leave(member)
        outcome = Outcome(
            id=member.item.id,
            attempt=member.item.attempt,
            state=state,
            started_at=member.started_at,
            compute_s=member.compute_s,
            batch_size=member.mates,
            batch_reason=member.reason,
            **fields,
        )
        self._settle([member], [outcome])

    def _end(self, group: Group, ended: Sequence[tuple[Member, Any]]) -> None:
        for member, _ in ended:
            group.leave(member)
        self._conclude(ended)
        if not group.members:
            self.drop(group)

    def _conclude(self, ended: Iterable[tuple[Member, Any]]) -> None:
        """Outcomes by result or exception."""
        pairs = list(ended)
        now = clock.now()
        outcomes = []
        for member, result in pairs:
            outcome = self._concluder.outcome(member.item, result, now=now)
            outcome.started_at = member.started_at
            outcome.batch_wait_s = max(0.0, member.started_at - member.item.claimed_at)
            outcome.compute_s = member.compute_s
            outcome.batch_size = member.mates
            outcome.batch_reason = member.reason
            outcomes.append(outcome)
        self._settle([member for member, _ in pairs], outcomes)

    def _settle(self, members: Sequence[Member], outcomes: Sequence[Outcome]) -> None:
        # One run per start, since a run has one time of start and one time of work.
        runs: dict[tuple[str, float, float], Run] = {}
        for member, outcome in zip(members, outcomes, strict=True):
            self._forget(member)
            key = (member.item.model, member.started_mono, member.compute_s)
            run = runs.get(key)
            if run is None:
                cls = type(self._models[member.item.model])
                run = runs[key] = Run(Batch(cls, [], member.reason))
                run.started_at, run.started_mono = member.started_at, member.started_mono
                run.compute_s = member.compute_s
            run.batch.items.append(member.item)
            run.live.append(member.item)
            run.outcomes.append(outcome)
        for run in runs.values():
            self._worker.settle(run)
        if runs:
            self._worker.wake()

    def _forget(self, member: Member) -> None:
        if self.held.get(member.item.id) is member:
            del self.held[member.item.id]

    # A model that does not return -----------------------------------------------------------------------------

    def _calling(self, call: Callable[[], Any], expected_s: float = 0.0) -> Any:
        self._call = Call(clock.monotonic_s(), expected_s)
        try:
            return call()
        finally:
            self._call = None

    def overdue(self, *, now_mono: float) -> list[Member]:
        """Sequences whose time is over because a call into the model does not return; for the watchdog."""
        call = self._call
        if call is None or now_mono - call.started_mono < max(GRACE_S, 10 * call.expected_s):
            return []
        return [
            member
            for member in list(self.held.values())
            if member.item.timeout_s is not None and now_mono - member.started_mono > member.item.timeout_s
        ]
