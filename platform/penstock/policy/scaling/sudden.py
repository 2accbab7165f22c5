"""Work that comes suddenly, where spares are parked: they are woken for it at once.

A mean needs seconds to rise, since chance rises as well. But where all who are ready are busy, what has piled up since
the last look, or was refused, is what one second has brought beyond them; and a spare costs the same whether it is
parked or works for a minute.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.policy.scaling.terms import Fleet, Load, Terms

#: What is there is to be gone so soon, seconds: before the next look.
CLEAR_S = 1.0


def sudden(
    load: Load, terms: Terms, fleet: Fleet, *, grown: float, by_target: Iterable[tuple[float, float]], share: float
) -> float:
    """Workers that would have what is there, and what comes meanwhile, done in time; no more than can be had by waking.

    0 where there is nobody to wake, or those who are ready have all done in time. ``grown`` is by how much more work
    there is a second. ``by_target`` are targets, the shortest first, each with the work that is done until it;
    ``share`` of a target may be spent waiting.
    """
    if terms.wake_in_s is None or not fleet.parked:
        return 0.0
    comes = max(load.demand, fleet.ready + grown)
    most = 0.0
    for target, seconds in by_target:
        wait = target * share
        if seconds > fleet.ready * wait:
            most = max(most, (seconds - fleet.ready * terms.wake_in_s + comes * CLEAR_S) / (CLEAR_S + wait))
    return min(most, float(fleet.ready + fleet.starting + fleet.parked)) if most > fleet.ready else 0.0
