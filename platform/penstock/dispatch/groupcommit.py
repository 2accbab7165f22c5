"""Group commit: callers that arrive while a commit runs share the next one.

The first caller commits at once, alone: nobody waits for company. Whoever arrives meanwhile waits for that commit,
and one of them, the next leader, commits for all who wait. So a lone caller pays nothing, and under load the cost of
a transaction is divided by the number of callers, without a timer or a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from penstock.errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


class _Slot(Generic[T, R]):
    """One caller's place."""

    __slots__ = ("answer", "item", "lead", "wake")

    def __init__(self, item: T) -> None:
        self.item = item
        self.answer: R | BaseException | None = None
        self.lead = False
        # A lock taken at birth is the cheapest one-shot signal there is.
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit(Generic[T, R]):
    """Turns concurrent calls into calls of ``commit`` with many items.

    ``commit(items)`` returns one answer or exception per item; it never runs twice at a time. ``after(items,
    answers)`` follows it outside the turn, in the same thread, so that it overlaps with the next commit; callers
    return when it has ended, and its exceptions are nobody's answer: it must not raise.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Sequence[R | BaseException]],
        after: Callable[[Sequence[T], Sequence[R | BaseException]], None],
        *,
        limit: int = 1000,
    ) -> None:
        self._commit = commit
        self._after = after
        self._limit = limit
        self._mutex = threading.Lock()
        self._busy = False
        self._waiting: list[_Slot[T, R]] = []

    def __call__(self, item: T) -> R:
        """Commit one item, alone or with others; raises what its commit raised."""
        with self._mutex:
            if not self._busy:
                self._busy = True
                slot = None
            else:
                slot = _Slot[T, R](item)
                self._waiting.append(slot)
        if slot is None:
            return _unwrap(self._lead([item])[0], own=True)
        try:
            slot.wake.acquire()
        except BaseException:  # Ctrl-C while waiting: the turn must not be given to somebody who has left
            self._leave(slot)
            raise
        if not slot.lead:
            return _unwrap(slot.answer, own=False)
        with self._mutex:
            # The leader's own slot is the first that waits.
            group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
        answers: Sequence[R | BaseException] = [_INTERRUPTED] * len(group)
        try:
            answers = self._lead([member.item for member in group])
        finally:
            for member, answer in zip(group[1:], answers[1:], strict=True):
                member.answer = answer
                member.wake.release()
        return _unwrap(answers[0], own=True)

    def _lead(self, items: Sequence[T]) -> Sequence[R | BaseException]:
        answers: Sequence[R | BaseException]
        try:
            answers = self._commit(items)
        except Exception as error:
            answers = [error] * len(items)
        finally:
            with self._mutex:
                self._pass_on()
        self._after(items, answers)
        return answers

    def _pass_on(self) -> None:
        """Give the turn to the first that waits."""
        if self._waiting:
            self._waiting[0].lead = True
            self._waiting[0].wake.release()
        else:
            self._busy = False

    def _leave(self, slot: _Slot[T, R]) -> None:
        with self._mutex:
            if slot in self._waiting:
                self._waiting.remove(slot)
                if slot.lead:
                    self._pass_on()


#: The answer of those whose leader was interrupted, say by Ctrl-C: their items may or may not be stored.
_INTERRUPTED = StoreUnavailable(
    "the commit was interrupted", fix="submit again; with an idempotency_key that gives the same job"
)


def _unwrap(answer: R | BaseException | None, *, own: bool) -> R:
    if isinstance(answer, BaseException):
        if own:
            raise answer
        # One exception object must not be raised by two threads: they would write into the same traceback.
        twin = type(answer).__new__(type(answer))
        twin.__dict__.update(answer.__dict__)
        twin.args = answer.args
        raise twin from answer
    return answer  # type: ignore[return-value]
