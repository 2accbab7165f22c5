"""One decision, from the context to the target."""

from __future__ import annotations

import math

from penstock.policy.scaling.state import State
from penstock.policy.scaling.terms import Context, Decision


def decide(context: Context) -> Decision:
    """The workers that carry the demand and clear the backlog within half of the tightest target."""
    terms, load, fleet = context.terms, context.load, context.fleet
    have = context.state.target if context.state.target is not None else fleet.ready + fleet.starting
    if load is None:
        target, code, reason = have, "hold.unknown", "nothing is known of the load yet"
    else:
        backlog = sum(load.backlog_s.values())
        drain_s = min(terms.target_s.values(), default=1.0) / 2
        need = math.ceil(load.demand + backlog / max(drain_s, terms.ready_in_s))
        target, code = max(need, 1 if load.jobs else 0), "steady"
        reason = f"{load.demand:.2f} device seconds of work a second and {backlog:.1f} s of backlog need {target}"
    target = min(max(target, terms.least), terms.most)
    parked = max(terms.warm - max(target - fleet.ready - fleet.starting, 0), 0) if terms.wake_in_s is not None else 0
    return Decision(target=target, parked=parked, state=State(target=target), code=code, reason=reason)
