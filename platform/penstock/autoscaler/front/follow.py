"""What another autoscaler has decided, as SQL has it: so that not only the leader can be asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from penstock import clock
from penstock.autoscaler.front.board import STATES, Board, Standing
from penstock.policy.leadership import name_of, rivals
from penstock.policy.scaling import Fleet
from penstock.store.elastic import Elastic, Leadership, Slot


def standings(
    leadership: Leadership, slots: Iterable[Slot], *, beaten_at: float, elsewhere: bool = False
) -> dict[str, Standing]:
    """PURE. The pools of a leader whose last sign of life was seen at ``beaten_at``.

    A leader that has left nothing about a pool to its successor has not decided on it yet: without slots that pool is
    not at zero, but unknown. Where workers run ``elsewhere``, slots are wishes, and tell of no fleet.
    """
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
        only: Collection[str] = (),
        elsewhere: bool = False,
        now_mono: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._elastic = elastic
        self._board = board
        self._name = name_of(only)
        self._elsewhere = elsewhere
        self._now = now_mono
        #: Of each leadership of these pools: its last beat, and when that was seen to change.
        self._beats: dict[str, tuple[tuple[int, int], float]] = {}

    def turn(self) -> None:
        """Look and post. Raises ``StoreUnavailable``; then what was posted grows old."""
        leaderships = self._elastic.leaderships()
        slots = self._elastic.slots()
        found: dict[str, Standing] = {}
        # Who leads a pool now has the last word on it.
        for name in sorted(rivals(self._name, leaderships), key=lambda name: bool(leaderships[name].holder)):
            leadership = leaderships[name]
            beat = (leadership.epoch, leadership.beat)
            # The first look sees a row and no sign of life: that may be of last year.
            before, beaten_at = self._beats.get(name, (beat, float("-inf")))
            self._beats[name] = (beat, beaten_at if beat == before else self._now())
            found |= standings(leadership, slots, beaten_at=self._beats[name][1], elsewhere=self._elsewhere)
        self._board.post(found)
