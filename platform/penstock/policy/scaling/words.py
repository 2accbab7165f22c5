"""Why a pool has the size that it has, in one sentence for a person, with the figures."""

from __future__ import annotations

from penstock.policy.scaling.need import Need
from penstock.policy.scaling.state import State
from penstock.policy.scaling.steady import hold_s
from penstock.policy.scaling.terms import Context

WHY = {
    "up": "more than there are",
    "panic": "need has risen to twice what is ready: followed at once, and nobody stops for a minute",
    "steady": "as many as there are",
    "down": "fewer carry the highest need of the window",
    "first": "there is work, and nobody to do it",
    "idle": "no work is left, and none has come for long enough",
    "hold.last": "the last one stays until there has been no work for a while",
    "hold.window": "fewer would do now, but not at the highest need of the last {hold:.0f} s",
    "hold.panic": "fewer would do, but need has just risen to twice what was ready: nobody stops for a minute",
    "hold.rest": "fewer would do; some were stopped a moment ago",
    "hold.backlog": "with one fewer, the backlog would not be done in time",
    "least": "the pool's min",
    "most": "the pool's max: more would be needed",
}


def sentence(context: Context, state: State, found: Need | None, *, target: int, parked: int, code: str) -> str:
    """The reason of a decision."""
    fleet, load = context.fleet, context.load
    if load is None:
        why = f"nothing is known of the load yet: {target} {f'wanted: {WHY[code]}' if code == 'least' else 'stay'}"
    elif found is None:
        age = context.now - load.at
        why = f"signals have been lost for {age:.0f} s: unknown is not zero, so {target} stay and nobody is stopped"
    else:
        needs = {
            f"{state.flow.slow:.2f} device seconds of new work a second need {found.staff:.1f} workers": found.staff,
            f"a reserve for sudden rises makes it {found.reserve:.1f}": found.reserve,
            f"{sum(load.backlog_s.values()):.1f} device seconds of backlog need {found.backlog:.1f}": found.backlog,
            f"deadlines need {found.deadlines:.1f}": found.deadlines,
        }
        first = next(iter(needs))
        most = max(needs, key=lambda words: needs[words])
        figures = first if most == first else f"{first}, {most}"
        why = f"{figures}; {target} wanted: {WHY[code].format(hold=hold_s(context.terms.ready_in_s))}"
    if parked:
        why += f"; {parked} parked beside them"
    if fleet.stuck:
        why += f"; {fleet.ready} are ready, and the others do not come up: {fleet.stuck}"
    return why
