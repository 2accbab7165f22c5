"""Which models stay loaded on a device that cannot hold all it serves.

What is worth keeping is what would be missed most for the room it takes: ``load time x request rate / size``, the rule
of GreedyDual-Size caches (Cao and Irani 1997) with the rate in place of the last use. A model whose jobs wait and that
nobody has loaded is brought in; others leave for it when they are worth less, or when it has waited for long enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A model that was just loaded stays for so long, unless somebody has lost patience, seconds.
KEEP_S = 2.0
#: After so long, jobs of a model that is loaded nowhere push out whatever is idle, seconds.
PATIENCE_S = 5.0
#: What is in use is drained for a model that has waited for so many times of its own load time, and PATIENCE_S: two
#: models that both always have work take turns that are worth their loading.
PATIENCE_LOADS = 3.0
#: A model that another worker holds is loaded here, too, into free room, when its jobs wait for so long, seconds.
HELP_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One model as one worker sees it. Sizes are bytes, ``rate`` is jobs per second, other times are seconds.

    ``waiting`` counts its jobs at the broker, ``waited_s`` says for how long there have been some without it being
    loaded here. ``used``: items of it are in this worker. ``pinned``: it never leaves. ``elsewhere``: another live
    worker has it loaded.
    """

    name: str
    size: int
    load_s: float = 1.0
    rate: float = 0.0
    resident: bool = False
    resident_s: float = 0.0
    used: bool = False
    pinned: bool = False
    waiting: int = 0
    waited_s: float = 0.0
    elsewhere: bool = False

    @property
    def value(self) -> float:
        """What keeping it saves, per byte."""
        return self.load_s * self.rate / max(self.size, 1)


@dataclass(frozen=True, slots=True)
class Change:
    """Evict these, then load that one. With ``drain`` only in the end: first nothing more is claimed for those."""

    load: str
    evict: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()


def first(sizes: Sequence[tuple[str, int]], budget: int) -> list[str]:
    """What to load at the start: in the given order, each that still fits."""
    names, left = [], budget
    for name, size in sizes:
        if size <= left:
            names.append(name)
            left -= size
    return names


def change(holdings: Sequence[Holding], budget: int) -> Change | None:
    """The next change, or ``None`` to leave everything as it is. Never evicts what is in use: that is drained first."""
    wanted = [h for h in holdings if not h.resident and h.size <= budget and (h.waiting or h.used)]
    # What this worker has already claimed nobody else can take.
    for candidate in sorted(wanted, key=lambda h: (not h.used, -h.waited_s, h.name)):
        found = _room_for(candidate, holdings, budget)
        if found is not None:
            return found
    return None


def _room_for(candidate: Holding, holdings: Sequence[Holding], budget: int) -> Change | None:
    free = budget - sum(h.size for h in holdings if h.resident)
    helping = candidate.elsewhere and not candidate.used
    if helping and candidate.size <= free:
        return Change(candidate.name) if candidate.waited_s >= HELP_AFTER_S else None
    if helping and candidate.waited_s < PATIENCE_S:
        return None
    impatient = not helping and (candidate.used or candidate.waited_s >= PATIENCE_S)
    evict: list[Holding] = []
    worst_first = sorted((h for h in holdings if h.resident), key=lambda h: h.value)
    for holding in worst_first:
        if candidate.size <= free:
            break
        if holding.used or (holding.resident_s < KEEP_S and not impatient):
            continue
        evict.append(holding)
        free += holding.size
    if candidate.size > free:
        patience_s = max(PATIENCE_S, PATIENCE_LOADS * candidate.load_s)
        if helping or not (candidate.used or candidate.waited_s >= patience_s):
            return None
        drain = []
        for holding in worst_first:
            if candidate.size <= free:
                break
            if holding.used and not holding.pinned:
                drain.append(holding.name)
                free += holding.size
        # What is idle stays until the others have left, too.
        return Change(candidate.name, drain=tuple(drain)) if candidate.size <= free else None
    if sum(h.load_s * h.rate for h in evict) > candidate.load_s * candidate.rate and not impatient:
        return None
    return Change(candidate.name, tuple(h.name for h in evict))
