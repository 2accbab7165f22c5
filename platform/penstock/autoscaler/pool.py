"""What an autoscaler knows of one pool from turn to turn, and what of it goes to a successor and to the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock import clock
from penstock.policy.rollout import Step
from penstock.policy.scaling import Decision, Fleet, Load, State


@dataclass(slots=True)
class Pool:
    """What one pool's turns leave for the next."""

    state: State = field(default_factory=State)
    #: The last look that gave figures: its age is told by its time.
    load: Load | None = None
    decision: Decision | None = None
    fleet: Fleet = field(default_factory=Fleet)
    #: Since when each of its slots was seen without a ready worker.
    unready: Mapping[str, float] = field(default_factory=dict)
    #: Of a rollout that is under way.
    step: Step | None = None
    decided_at: float = 0.0


def told(pool: Pool, *, ready_in_s: float | None, split: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Plain values for the leader's row: ``state``, ``ready_in_s`` and ``split`` for a successor, and the rest."""
    decision, load, fleet = pool.decision, pool.load, pool.fleet
    kept = {"state": pool.state.as_json(), "ready_in_s": ready_in_s, "split": split}
    if decision is None:
        return kept
    return kept | {
        "target": decision.target,
        "parked": decision.parked,
        "code": decision.code,
        "reason": decision.reason,
        "decided_at": pool.decided_at,
        "demand": round(load.demand, 3) if load is not None else None,
        "backlog_s": round(sum(load.backlog_s.values()), 3) if load is not None else None,
        "jobs": load.jobs if load is not None else None,
        "busy": fleet.busy,
        "age_s": round(clock.monotonic_s() - load.at, 1) if load is not None else None,
        "stuck": fleet.stuck,
        "rollout": None if pool.step is None else {"code": pool.step.code, "reason": pool.step.reason},
    }
