"""How many deliveries may be in flight to whom: pure bookkeeping.

There are ``total`` slots, ``per_host`` of them for one host. A host whose last attempt failed is *suspect*: it gets
one slot, and all suspects together at most half of the slots. So however many receivers are slow or dead, the other
half stays with those that answer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

#: Suspects that are remembered; beyond that the oldest are given the benefit of the doubt.
_REMEMBERED = 1000


class Slots:
    """The slots and who holds them. Not thread-safe: it belongs to the event loop."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = total
        self._per_host = per_host
        self._for_suspects = max(1, total // 2)
        self._held: Counter[str] = Counter()
        self._suspects: OrderedDict[str, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._total - self._held.total()

    def room(self, host: str) -> int:
        """How many more deliveries to ``host`` may start now."""
        if host in self._suspects:
            return max(0, min(self.free, 1 - self._held[host], self._for_suspects - self._held_by_suspects()))
        return max(0, min(self.free, self._per_host - self._held[host]))

    def full(self) -> list[str]:
        """The hosts that must wait: those without room, every suspect among them once suspects hold their half."""
        busy = [host for host in self._held if self.room(host) == 0]
        if self._held_by_suspects() >= self._for_suspects:
            busy += [host for host in self._suspects if host not in self._held]
        return busy

    def acquire(self, host: str) -> bool:
        """Take a slot for ``host`` if there is room."""
        if self.room(host) == 0:
            return False
        self._held[host] += 1
        return True

    def release(self, host: str, *, answered: bool | None) -> None:
        """Give the slot back. ``answered`` clears a suspicion, ``False`` raises one, ``None`` changes nothing."""
        self._held[host] -= 1
        if self._held[host] <= 0:
            del self._held[host]
        if answered is None:
            return
        if answered:
            self._suspects.pop(host, None)
            return
        self._suspects[host] = None
        self._suspects.move_to_end(host)
        if len(self._suspects) > _REMEMBERED:
            self._suspects.popitem(last=False)

    def _held_by_suspects(self) -> int:
        return sum(count for host, count in self._held.items() if host in self._suspects)
