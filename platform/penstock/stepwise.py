"""``StepModel``: work that proceeds in many short steps, such as generation of text or diffusion.

The worker decides what happens between two steps: newcomers begin, short work of other models goes first, a job that
was cancelled or whose time is over leaves. The state stays in the worker's process and on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from penstock.model import Model
from penstock.results import answers_of


@dataclass(frozen=True, slots=True)
class Progress:
    """Partial output of one sequence: goes to ``job.stream()`` at once. ``data`` has a JSON form."""

    data: Any


class StepModel(Model):
    """Base class of models that work in steps: write ``begin`` and ``step``.

    ``begin`` makes the state of a *group* of sequences. Their indices are the positions in the batch. Each ``step``
    advances all of the group that have not ended and answers for those it likes, by index: a ``Progress``, or the
    result, or an exception instance, which fails that sequence alone. A sequence has ended when its result was
    given; the group, when all have.

    A model that also writes ``join`` takes newcomers into a running group at a step boundary (continuous batching).
    Without it newcomers begin a group of their own, and the worker steps the groups in turn.

    All methods are called from one thread, one at a time. A group may wait between two of its steps while others
    run, and so may its state: it has to live in objects that other groups' steps do not touch. When ``step`` raises
    for a group of several, they begin again in halves, until the faulty one stands alone.
    """

    #: Most groups of this model that are begun at a time beside the one that steps. Each holds at most
    #: ``batching.max_size`` sequences, so ``(parked + 1) * max_size`` sequences have state on the device.
    parked: ClassVar[int] = 2

    def begin(self, batch: Any) -> Any:
        """The state of a new group, one sequence per item."""
        raise NotImplementedError(f"{type(self).__name__} has no begin()")

    def step(self, state: Any) -> Mapping[int, Any]:
        """Advance the group by one step: index -> ``Progress``, result, or exception. Others just go on."""
        raise NotImplementedError(f"{type(self).__name__} has no step()")

    def join(self, state: Any, batch: Any) -> None:
        """Optional: add newcomers to a running group. Their indices follow the highest one ever given in it.

        A ``join`` that raises must leave the state as it was; the newcomers then begin a group of their own.
        """
        raise NotImplementedError(f"{type(self).__name__} has no join()")

    def finish(self, state: Any, index: int) -> None:
        """Optional: the sequence leaves; free what it holds. Called once each, however it ended."""

    def predict(self, batch: Any) -> Sequence[Any]:
        """Run one group to its end: how the model behaves without a worker around it. Progress is dropped."""
        state = self.begin(batch)
        results: dict[int, Any] = {}
        while len(results) < len(batch):
            running = set(range(len(batch))) - results.keys()
            for index, answer in answers_of(self.name, self.step(state), running):
                if not isinstance(answer, Progress):
                    results[index] = answer
                    self.finish(state, index)
        return [results[index] for index in range(len(batch))]

    @classmethod
    def joins(cls) -> bool:
        """Whether newcomers can join a running group."""
        return cls.join is not StepModel.join

    @classmethod
    def takes_batch(cls) -> Callable[..., Any]:
        """The method whose hint tells the item type."""
        return cls.begin

    @classmethod
    def unwritten(cls) -> tuple[str, str] | None:
        """The first method that a subclass had to write and did not, and an example of it."""
        if cls.begin is StepModel.begin:
            return "begin", "def begin(self, batch: list[str]) -> State"
        if cls.step is StepModel.step:
            return "step", "def step(self, state: State) -> dict[int, str | Progress]"
        return None
