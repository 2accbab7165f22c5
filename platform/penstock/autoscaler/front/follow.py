"""What another autoscaler has decided, as SQL has it: so that not only the leader can be asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from penstock import clock
from penstock.autoscaler.front.board import STATES, Board, Standing
from penstock.policy.scaling import Fleet
from penstock.store.elastic import AUTOSCALER, Elastic, Leadership, Slot


def standings(
    leadership: Leadership | None, slots: Iterable[Slot], *, beaten_at: float, elsewhere: bool = False
) -> dict[str, Standing]:
    """PURE. The pools of a leader whose last sign of life was seen at ``beaten_at``.

    A leader that has left nothing about a pool to its successor has not decided on it yet: without slots that pool is
    not at zero, but unknown. Where workers run ``elsewhere``, slots are wishes, and tell of no fleet.
    """
    if leadership is None:
        return {}
    told_of = leadership.state.get("pools", {})
    counts: dict[str, Counter[str]] = {pool: Counter() for pool, told in told_of.items() if "target" in told}
    for slot in slots:
        if slot.pool not in told_of:
            continue  # another leader's
        here = counts.setdefault(slot.pool, Counter())
        here["desired"] += slot.state == "wanted"
        here[_phase(slot)] += 1
    return {
        pool: Standing(
            desired=count["desired"],
            fleet=None if elsewhere else _fleet(count),
            at=beaten_at,
        )
        for pool, count in counts.items()
    }


def _fleet(count: Counter[str]) -> Fleet:
    ready, starting, parked, draining = (count[state] for state in STATES)
    return Fleet(ready=ready, starting=starting, parked=parked, draining=draining)


def _phase(slot: Slot) -> str:
    if slot.state == "draining":
        return "draining"
    if slot.worker is None or slot.ready_at is None:
        return "starting"
    return "parked" if slot.state == "parked" else "ready"


class Follower:
    """``turn`` once a second, where another process leads. Whether that lives is judged on this process' own clock."""

    def __init__(
        self,
        elastic: Elastic,
        board: Board,
        *,
        name: str = AUTOSCALER,
        elsewhere: bool = False,
        now_mono: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._elastic = elastic
        self._board = board
        self._name = name
        self._elsewhere = elsewhere
        self._now = now_mono
        self._beat: tuple[int, int] | None = None
        self._beaten_at = float("-inf")

    def turn(self) -> None:
        """Look and post. Raises ``StoreUnavailable``; then what was posted grows old."""
        leadership = self._elastic.leadership(self._name)
        slots = self._elastic.slots()
        beat = None if leadership is None else (leadership.epoch, leadership.beat)
        if beat != self._beat:
            # The first look sees a row and no sign of life: that may be of last year.
            self._beaten_at = self._now() if self._beat is not None else float("-inf")
            self._beat = beat
        self._board.post(standings(leadership, slots, beaten_at=self._beaten_at, elsewhere=self._elsewhere))
