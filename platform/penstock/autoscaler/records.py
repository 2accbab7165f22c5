"""What an autoscaler keeps of what it has seen and decided, for ``explain`` and ``plan``."""

from __future__ import annotations

import structlog

from penstock import clock
from penstock.autoscaler.minutes import Minutes
from penstock.autoscaler.split import divided
from penstock.policy.scaling import Decision, Fleet, Load, Terms
from penstock.policy.scaling.split import Verdict
from penstock.store.elastic import Change, Elastic

log = structlog.get_logger(__name__)

#: How often the open minute is stored, seconds.
RECORD_EVERY_S = 10.0
#: A look speaks for the time since the one before; for no more than this, seconds.
MOST_GAP_S = 60.0
#: The word of a decision that signals have been lost for ``lost_after_s``.
LOST = "hold.lost"


class Records:
    """``saw`` each pool of a look, ``turned`` at the end of each turn, ``changed`` when there is something to tell."""

    def __init__(self, elastic: Elastic) -> None:
        self._elastic = elastic
        self._minutes = Minutes()
        self._recorded_at = float("-inf")
        self._looked_at: float | None = None

    def saw(
        self, pool: str, load: Load, fleet: Fleet, terms: Terms, decision: Decision, *, epoch: int, now: float
    ) -> None:
        """One look at a pool at ``now`` (monotonic seconds)."""
        elapsed_s = 0.0 if self._looked_at is None else min(now - self._looked_at, MOST_GAP_S)
        self._minutes.saw(pool, load, fleet, terms, decision, epoch=epoch, now=clock.now(), elapsed_s=elapsed_s)

    def turned(self, *, looked: bool) -> None:
        """A turn is over: store what is due. Raises ``StoreUnavailable``."""
        now = clock.monotonic_s()
        if looked:
            self._looked_at = now
        if now - self._recorded_at >= RECORD_EVERY_S:
            self._elastic.record(self._minutes.due())
            self._minutes.stored()
            self._recorded_at = now

    def divided(self, pool: str, decision: Decision, verdict: Verdict, *, workers: int, epoch: int) -> None:
        """Keep that a pool is split between lanes, or merged: it has as many workers as before."""
        self.changed(
            pool,
            decision,
            epoch=epoch,
            before=decision.target,
            code=verdict.code,
            reason=f"{divided(verdict.alone, workers)}: {verdict.reason}",
            said="a pool is split between lanes" if verdict.alone else "a pool is merged",
        )

    def changed(
        self,
        pool: str,
        decision: Decision,
        *,
        epoch: int,
        before: int,
        code: str,
        reason: str,
        said: str = "the pool is to have other workers",
    ) -> None:
        """Keep what was decided, for whoever asks why; the log has it with what is ``said`` of it. Raises
        ``StoreUnavailable``."""
        change = Change(
            pool=pool,
            at=clock.now(),
            epoch=epoch,
            before=before,
            after=decision.target,
            parked=decision.parked,
            code=code,
            reason=reason,
        )
        self._elastic.changed(change)
        log.info(
            said,
            action="autoscaler.decided",
            pool=pool,
            before=before,
            after=decision.target,
            parked=decision.parked,
            code=code,
            reason=reason,
        )
