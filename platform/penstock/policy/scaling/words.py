"""Why a pool has the size that it has, in a sentence or two for a person who sees it for the first time: what was
decided, why, and the figures.

Nothing that a model or a worker has said is in it: who starts and scales workers reads it without a password.
"""

from __future__ import annotations

import re

from penstock.policy.scaling.need import Need
from penstock.policy.scaling.state import State
from penstock.policy.scaling.steady import DOWN_EVERY_S, PANIC_S, hold_s
from penstock.policy.scaling.terms import Context, Load

WHY = {
    "up": "the work needs them",
    "panic": "work has jumped to twice what the ready ones can do, or more: it is followed at once",
    "steady": "as many as the work needs",
    "down": "that is enough even for the most that was needed in the last {hold:.0f} s",
    "first": "there are jobs, and there was no worker",
    # What nobody looked at, between one autoscaler and the next, is not in it; what its predecessor saw is.
    "idle": "no work is left, and none was seen in {quiet:.0f} s of looking",
    "hold.last": "the last one stays until no work has come for a while",
    "hold.window": "fewer would be enough now; it goes down when they have been enough for {hold:.0f} s",
    "hold.panic": "fewer would be enough now, but work jumped a moment ago: nobody is stopped for {panic:.0f} s",
    "hold.rest": "fewer would be enough, but some were just stopped: it goes down once in {rest:.0f} s",
    "hold.untimed": "fewer would be enough for what is known, and unknown is not zero",
    "hold.backlog": "with one fewer, the work that waits would be late",
    "least": "the pool's min",
    "most": "the work needs more, and this is the most: the pool's max, or all that there is room for",
}
#: Rates that are shown as 0.00 are none; a quick mean is told when it is higher than a slow one by so much of it.
NONE, APART = 0.005, 0.1


def sentence(
    context: Context, state: State, found: Need | None, *, before: int, target: int, parked: int, code: str
) -> str:
    """The reason of a decision, ``before`` which so many were wanted."""
    fleet, load = context.fleet, context.load
    words = f"stays at {_workers(target)}" if target == before else f"from {before} to {_workers(target)}"
    if load is None:
        words += f": nothing is known of the load yet{f', and this is {WHY[code]}' if code == 'least' else ''}"
    elif found is None:
        words += f": signals have been lost for {context.now - load.at:.0f} s (the broker or the database is away), and"
        words += " unknown is not zero"
    else:
        # What holds at the least holds nobody that would go.
        held = code.startswith("hold.") and target <= context.terms.least
        why = WHY["least" if held else code].format(
            hold=hold_s(context.terms.ready_in_s),
            quiet=context.now - max(state.used_at.values(), default=context.now),
            panic=PANIC_S,
            rest=min(DOWN_EVERY_S, hold_s(context.terms.ready_in_s)),
        )
        words += f": {why}. {_figures(load, state, found)}"
    if parked:
        words += f"; {parked} more {'are' if parked > 1 else 'is'} parked"
    if fleet.stuck:
        words += (
            f"; only {fleet.ready} of {target} {'is' if fleet.ready == 1 else 'are'} ready, and others do not come up"
        )
    return words


def kind_of(stuck: str) -> str:
    """The word for why workers do not come up (``CrashLoop``, ``Unschedulable``) without anything that was said about
    it, which may quote a model's error; empty: there is none."""
    found = re.match(r"[A-Z][A-Za-z]*(?=:|$)", stuck)
    return found.group() if found else ""


def _figures(load: Load, state: State, found: Need) -> str:
    """What comes and what it needs; beside it only what needs more."""
    flow = state.flow
    if max(flow.slow, flow.fast) < NONE:
        parts = ["No new work comes" if not load.untimed else "No new work comes whose time is known"]
    else:
        lately = f", {flow.fast:.2f} in the last seconds" if flow.fast > flow.slow * (1 + APART) + NONE else ""
        parts = [
            f"New work takes {flow.slow:.2f} s of a worker's time each second{lately}:"
            f" {_need(found.staff)} for that, with a margin for chance"
        ]
    if found.reserve == found.all and round(found.reserve, 1) > round(found.staff, 1):
        parts.append(f"{found.reserve:.1f} with a reserve for sudden rises")
    if found.backlog == found.all > found.staff:
        parts.append(f"{sum(load.backlog_s.values()):.1f} s of work wait: {_need(found.backlog)} to be in time")
    if found.deadlines == found.all > found.staff:
        parts.append(f"jobs have deadlines of their own: {_need(found.deadlines)} to keep them")
    if load.untimed:
        jobs = "a job takes" if load.untimed == 1 else f"{load.untimed} jobs take"
        parts.append(f"nobody knows yet how long {jobs}")
    return "; ".join(parts)


def _need(workers: float) -> str:
    return f"{workers:.1f} workers are needed"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"
