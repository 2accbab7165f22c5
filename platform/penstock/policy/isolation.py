"""How long background work may keep an interactive job waiting: the isolation budget.

A device that runs whole batches cannot be interrupted, so what protects interactive jobs is the length of the batches
that background work may start. While interactive jobs come, the budget is a share of their target; it grows back when
they stay away, doubling each second, until background batches are as large as the model allows.
"""

from __future__ import annotations

#: The share of the interactive target that background work may cost an interactive job, all in all …
BUDGET_SHARE = 0.25
#: … of which so much may go into a background batch that is already on the device when the job arrives, and so much
#: into background items that fill its own batch. The rest is for what is shared beside the device: claims, commits.
BLOCKING_SHARE, FILLING_SHARE = 0.7, 0.16
#: Seconds without interactive jobs before the budget grows, and how long it takes to double.
QUIET_S, DOUBLING_S = 5.0, 1.0


def isolation_bound_s(target_s: float) -> float:
    """The published bound: what background work adds at most to an interactive job's latency, seconds.

    A model whose smallest batch takes longer is the exception: one item has to run all the same.
    """
    return BUDGET_SHARE * target_s


def blocking_s(target_s: float, quiet_s: float | None) -> float:
    """The longest background batch, seconds, ``quiet_s`` after the last interactive job (``None``: never one)."""
    if quiet_s is None:
        return float("inf")
    bound_s = BLOCKING_SHARE * isolation_bound_s(target_s)
    doublings = max(0.0, quiet_s - QUIET_S) / DOUBLING_S
    return float(bound_s * 2.0 ** min(doublings, 60.0))


def filling_s(target_s: float) -> float:
    """How much longer background items may make an interactive batch, seconds."""
    return FILLING_SHARE * isolation_bound_s(target_s)


class MinimumShare:
    """Whether work of one kind (background, late) has had its least share of the device lately: so it never starves.

    Times are seconds of one monotonic clock, passed in. Older use counts less: half after ``HALF_S``.
    """

    SHARE = 0.05
    HALF_S = 5.0

    def __init__(self) -> None:
        self._at = 0.0
        self._all = 0.0
        self._own = 0.0

    def spent(self, seconds: float, share: float, now: float) -> None:
        """A batch kept the device for ``seconds``, ``share`` (0..1) of it for work of this kind."""
        keep = 0.5 ** (max(0.0, now - self._at) / self.HALF_S)
        self._at = now
        self._all = self._all * keep + seconds
        self._own = self._own * keep + seconds * share

    def owed(self) -> bool:
        """Whether such work is to go first now, if there is any."""
        return self._own < self.SHARE * self._all
