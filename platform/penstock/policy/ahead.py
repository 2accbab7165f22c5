"""The batch that is claimed while the device runs the one before it: when it is time to, and what is there. PURE.

The claim is made as late as can be, since what is claimed can be overtaken by nobody (``docs/decisions/0057``): first
what stands at the broker is called for, then a batch is chosen from what has come, then it is claimed in SQL. How long
each of that takes is what ``Lead`` learns.
"""

from __future__ import annotations

from collections.abc import Sized
from enum import Enum
from typing import Generic, Protocol, TypeVar

from penstock.policy.prefetch import Lead


class HasItems(Protocol):
    """What is asked of a batch."""

    @property
    def items(self) -> Sized:
        """Those in it."""


B = TypeVar("B", bound=HasItems)


class Turn(Enum):
    """What is to be done for the batch behind the running one, now."""

    #: Have the transport claim what stands at the broker.
    CALL = "call"
    #: Choose that batch from what is here.
    CHOOSE = "choose"


class Ahead(Generic[B]):
    """What is claimed for the time behind the running batch. Times are of one monotonic clock, seconds, passed in."""

    def __init__(self, lead: Lead) -> None:
        self.lead = lead
        #: Whether a batch may be claimed behind the one that runs.
        self.allowed = False
        #: Whether items were claimed for the batch behind the one that runs, and interactive ones among them.
        self.fed = False
        self.fed_urgent = False
        #: The batch that is being claimed in SQL, then that one with its claim, and since when it has it.
        self.claiming: B | None = None
        self.staged: B | None = None
        self.staged_at = 0.0
        #: Whether it was called for behind the running batch.
        self._called = False
        #: Since when claims bring what will run behind it, until that is chosen.
        self._searching_since: float | None = None
        #: When some of it was last abandoned, and when the batch was chosen.
        self._abandoned_at = float("-inf")
        self._chosen_at = 0.0

    @property
    def batch(self) -> B | None:
        """The batch behind the running one, claimed or being claimed."""
        return self.staged or self.claiming

    # What happens ---------------------------------------------------------------------------------------------

    def came(self, *, urgent: bool) -> None:
        """Items were claimed for the batch behind the running one."""
        self.fed = True
        self.fed_urgent = self.fed_urgent or urgent

    def abandoned(self, now: float) -> None:
        """Some of what came was abandoned: more stands behind it."""
        self._abandoned_at = now

    def called(self, now: float) -> None:
        """What stands at the broker is being claimed."""
        self._called, self._searching_since = True, now

    def looks(self, now: float) -> None:
        """A batch is looked for."""
        self._chosen_at = now

    def chose(self, batch: B | None) -> None:
        """This one was found; it is now claimed in SQL."""
        self.claiming = batch
        if batch is not None:
            self.searched()

    def claimed(self, batch: B | None, now: float) -> None:
        """Its claim was made; ``None``: it was not."""
        self.claiming, self.staged, self.staged_at = None, batch, now
        if batch is not None:
            self.lead.claim.took(now - self._chosen_at, len(batch.items))

    def seize(self) -> B | None:
        """The claimed batch, which will not run here."""
        staged, self.staged = self.staged, None
        return staged

    def started(self, batch: object) -> None:
        """A batch goes onto the device, this one or another."""
        if batch is self.staged:
            self.staged = None
        self._called = False

    def ended(self) -> None:
        """The running batch has ended."""
        self.fed = self.fed_urgent = self.allowed = False

    def searched(self) -> None:
        """What will run next is chosen: how long did claims take to get behind those that were abandoned?"""
        if self._searching_since is None:
            return
        took_s = max(0.0, self._abandoned_at - self._searching_since)
        # Where the time was over first, it takes longer than that.
        self.lead.searched(took_s if self.fed else 2.0 * took_s)
        if self.fed and self.claiming is not None:
            since = max(self._searching_since, self._abandoned_at)
            self.lead.fetch.took(max(0.0, self._chosen_at - since), len(self.claiming.items))
        self._searching_since = None

    # What to do -----------------------------------------------------------------------------------------------

    def turn(self, left_s: float, lead_s: float) -> Turn | float | None:
        """What is to be done now, where the running batch takes ``left_s`` more and is claimed behind ``lead_s`` before
        its end; else after how long to look again, seconds; ``None``: not until something comes.
        """
        if not self.allowed:
            return None
        if not self._called:
            return Turn.CALL if left_s <= lead_s else left_s - lead_s
        if self.staged is not None or self.claiming is not None:
            return None
        # What was called for is waited for, but not for ever: items of other models may be here.
        choose_s = lead_s if self.fed else lead_s / 2
        return Turn.CHOOSE if left_s <= choose_s else left_s - choose_s
