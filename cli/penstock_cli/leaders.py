"""What autoscalers have said, one or several: those that look after some pools only lead under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.store.elastic import Leadership


def pools_of(leaders: Mapping[str, Leadership]) -> dict[str, dict[str, Any]]:
    """What was said last of each pool: PURE."""
    found: dict[str, dict[str, Any]] = {}
    for leader in sorted(leaders.values(), key=said_at):
        found |= leader.state.get("pools") or {}
    return found


def said_at(leader: Leadership) -> float:
    """When it last said anything; 0: never."""
    return float(leader.state.get("at") or 0.0)
