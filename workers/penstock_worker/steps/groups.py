"""Groups: the sequences of a step-wise model that step together, and the calls into the model.

Only the device thread touches them. A group raises what its model raises; ``iteration`` decides what comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from penstock.lane import Lane
from penstock.results import answers_of
from penstock.stepwise import StepModel
from penstock_worker.item import Item

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Member:
    """One sequence: an item that has begun."""

    item: Item
    #: Why it was admitted when it was: ``begin`` or ``join``.
    reason: str
    #: The start of this attempt, Unix and monotonic seconds.
    started_at: float
    started_mono: float
    #: Its place in the group, as the model counts.
    index: int = -1
    #: Pieces of partial output so far, in this attempt.
    progress: int = 0
    #: Device seconds of its group since it began.
    compute_s: float = 0.0
    #: Most sequences that it stepped with, itself included.
    mates: int = 1
    #: Set by the watch: SQL says that it is cancelled, or not ours any more.
    recalled: bool = False


class Group:
    """One state of the model and who is in it."""

    def __init__(self, id: int, model: StepModel, lane: Lane, slot: int | None = None) -> None:
        self.id = id
        #: Groups that were one, before a fault, share a slot and what it holds: ``max_size`` sequences in all.
        self.slot = id if slot is None else slot
        self.model = model
        self.lane = lane
        self.members: dict[int, Member] = {}
        #: When it last had the device, monotonic seconds.
        self.ran_at = 0.0
        self._state: Any = None
        self._next = 0

    def begin(self, members: Sequence[Member]) -> None:
        """Make the state."""
        self._state = self.model.begin([member.item.value for member in members])
        self._add(members)

    def join(self, members: Sequence[Member]) -> None:
        """Add newcomers to the state."""
        self.model.join(self._state, [member.item.value for member in members])
        self._add(members)

    def step(self) -> list[tuple[Member, Any]]:
        """One step; who was answered for, and what."""
        answers = answers_of(self.model.name, self.model.step(self._state), self.members)
        return [(self.members[index], answer) for index, answer in answers]

    def leave(self, member: Member) -> None:
        """The sequence is over. What ``finish`` raises is logged: its outcome is known."""
        del self.members[member.index]
        try:
            self.model.finish(self._state, member.index)
        except BaseException as error:
            log.warning("finish() raised", action="model.finish", model=self.model.name, exc_info=error)

    def _add(self, members: Sequence[Member]) -> None:
        for member in members:
            member.index = self._next
            self.members[member.index] = member
            self._next += 1
        for member in self.members.values():
            member.mates = max(member.mates, len(self.members))
