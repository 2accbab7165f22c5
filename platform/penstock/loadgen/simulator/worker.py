"""An imagined worker: the waiting room of a real one, and what it says of its load. PURE."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock.lane import Lane
from penstock.loadgen.simulator.world import Item, World, make_policy
from penstock.policy.waitingroom import Chosen, WaitingRoom, in_order
from penstock.policy.workload import Stock, Workload

#: A job's expected device time before the first batch of its model, seconds, and the weight of the newest one after it
#: (``penstock_worker.schedule.charges``).
UNKNOWN_S, NEWEST = 0.01, 0.1


class Worker:
    """One worker that serves some models. Knows no broker: what it wants is asked, what it gets is put."""

    def __init__(self, world: World, names: Collection[str]) -> None:
        names = [name for name in world.kinds if name in names]
        target_s = world.targets_s[Lane.INTERACTIVE]
        self.room = WaitingRoom[Item, Chosen[Item]](
            {name: world.kinds[name].batching for name in names},
            make_policy(world.policy),
            queues=in_order(names, lambda model, lane: f"{model}.{lane}"),
            prefetch_batches=world.prefetch_batches,
            lead_s=world.lead_s,
            target_s=target_s,
        )
        self.load = Workload(self.room.limits.items(), target_s=target_s)
        #: When it looks again by itself.
        self.wakes_at: float | None = None
        self._expected: dict[tuple[str, Lane], float] = {}

    @property
    def busy(self) -> bool:
        """Whether a batch is on its device."""
        return self.room.running is not None

    # Claims ---------------------------------------------------------------------------------------------------

    def wanted(self, now: float) -> dict[tuple[str, Lane], int]:
        """How many more items of each (model, lane) to claim now, in the order of service."""
        if self.busy and not self.room.is_soon(now):
            return {}
        found = self.room.quotas(now)
        return {which: found[queue] for which, queue in self.room.queues.items() if found[queue]}

    def put(self, items: Sequence[Item], now: float) -> int:
        """Claimed items join their lines, but for those that are abandoned; how many are."""
        for item in items:
            item.arrived_at = now
        return self.room.put(items, now)

    # What it says ---------------------------------------------------------------------------------------------

    def stock(self, name: str) -> Stock:
        """What is claimed of a model and not begun."""
        waiting = self.room.lines.waiting
        return Stock(
            waiting=waiting[name, Lane.INTERACTIVE],
            filled=waiting[name, Lane.BACKGROUND] > 0,
            room=self.room.capacity(name),
            lead_s=self.room.lead_s,
        )

    # Batches --------------------------------------------------------------------------------------------------

    def start(self, chosen: Chosen[Item], now: float) -> None:
        """A batch goes onto the device."""
        self.room.start(chosen, now)
        self.wakes_at = None

    def end(self, chosen: Chosen[Item], took_s: float, now: float) -> None:
        """It has ended: the worker learns from it."""
        cost = sum(item.cost for item in chosen.items)
        background = sum(item.cost for item in chosen.items if item.lane is Lane.BACKGROUND) / cost
        late = sum(item.cost for item in chosen.items if item.late) / cost
        self.room.ended(now)
        self.room.learn(chosen, now, cost=cost, background=background, late=late, busy_s=took_s, clean=True)

    def expected(self, name: str, lane: Lane) -> float:
        """Device seconds that one job is expected to take."""
        return self._expected.get((name, lane), UNKNOWN_S)

    def took(self, name: str, lane: Lane, mean_s: float) -> None:
        """The jobs of this lane in a batch took so much of the device each."""
        old = self._expected.get((name, lane), mean_s)
        self._expected[name, lane] = old + NEWEST * (mean_s - old)
