"""What autoscalers have said, one or several: those that look after some pools only lead under names of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from penstock.errors import ConfigError
from penstock.policy.pools import place, want_announced
from penstock.store.elastic import Leadership
from penstock_cli.context import App

#: An autoscaler that has said nothing for so many leases is taken for gone.
LEASES = 3


def pools_of(leaders: Mapping[str, Leadership]) -> dict[str, dict[str, Any]]:
    """What was said last of each pool: PURE."""
    found: dict[str, dict[str, Any]] = {}
    for leader in sorted(leaders.values(), key=said_at):
        found |= leader.state.get("pools") or {}
    return found


def decided_now(leaders: Mapping[str, Leadership], *, lease_s: float, now: float) -> dict[str, dict[str, Any]]:
    """What those autoscalers say of their pools that have said something within the last leases: PURE. Clocks of two
    machines are compared, so nothing but a sentence may depend on it."""
    live = {name: each for name, each in leaders.items() if each.holder and now - said_at(each) <= LEASES * lease_s}
    return pools_of(live)


def known_pools(app: App) -> list[str]:
    """The pools that there are: of the settings, of models that anybody has announced, and of autoscalers."""
    served = app.settings.served_pools()
    placed = {place(want_announced(name, info), served).pool for name, info in app.store.models().items()}
    return sorted({*served, *placed, *pools_of(app.store.elastic.leaderships())})


def no_pool(pool: str, known: Sequence[str]) -> ConfigError:
    """The error for a pool that there is not, with those that there are: PURE."""
    there = f"there are {', '.join(known[:20])}" if known else "there is none yet: `penstock up my_models` makes one"
    near = get_close_matches(pool[:150], known, n=1)
    return ConfigError(f"there is no pool {pool!r:.80}", fix=f"did you mean {near[0]}? ({there})" if near else there)


def said_at(leader: Leadership) -> float:
    """When it last said anything; 0: never."""
    return float(leader.state.get("at") or 0.0)
