"""One decision, from the context to the target: what was seen is taken into account, what it needs is made steady, and
the settings have the last word."""

from __future__ import annotations

import math

from msgspec.structs import replace

from penstock.policy.scaling.need import LOOK_S, Need, carries, in_panic, is_late, need, of_sudden
from penstock.policy.scaling.spares import risen, spares
from penstock.policy.scaling.state import NEVER, State
from penstock.policy.scaling.steady import PANIC_S, Steady, hold_s, panics, steady, with_peak
from penstock.policy.scaling.terms import Context, Decision, Load
from penstock.policy.scaling.words import sentence

#: A look that is older than this says nothing of now.
STALE_S = 10.0
#: A look speaks for the time since the one before; for no more than this, seconds.
MOST_GAP_S = 60.0
#: What a broker has lost is compared with SQL, and sent again, within so long, seconds.
SENT_AGAIN_S = 10.0
#: A pool that has had no work for so long, and for the window of going down, needs nobody. Where work comes after
#: longer pauses than that, it waits for half as long again as they are, and this at most.
IDLE_S, IDLE_MOST_S = 60.0, 300.0


def decide(context: Context) -> Decision:
    """How many workers a pool wants.

    Unknown is not zero: without a look that is fresh the target stays as it is, whatever the age. What does not come up
    (``fleet.stuck``) is told, is no capacity, and changes nothing of what is decided.
    """
    load = context.load
    if load is None or context.now - load.at > STALE_S:
        return _hold(context)
    state = _seen(context, load)
    found = need(context, load, state)
    if load.at > context.state.seen_at:
        window = hold_s(context.terms.ready_in_s)
        # What was there before anything was seen may have had its reason, too.
        peaks = state.peaks or ((load.at, float(_have(context))),)
        state = replace(state, peaks=with_peak(peaks, at=load.at, height=found.staff, window_s=window))
        state = risen(state, found.staff, before=found.before, least=context.terms.least, at=load.at)
    chosen = _choose(context, load, state, found)
    return _decided(context, state, chosen, found)


def _have(context: Context) -> int:
    """What is wanted so far. What is stuck or has just died is wanted all the same."""
    wanted, fleet = context.state.target, context.fleet
    return wanted if wanted is not None else fleet.ready + fleet.starting


def _seen(context: Context, load: Load) -> State:
    """The state after a look, which counts once."""
    state = context.state
    if load.at <= state.seen_at:
        return state
    elapsed = min(load.at - state.seen_at, MOST_GAP_S) if state.seen_at > NEVER else LOOK_S
    if state.seen_at > NEVER and load.at - state.seen_at > MOST_GAP_S:
        # Nobody knows whether there was work meanwhile: that time is no rest. Nor is what follows, until a broker that
        # comes back empty has been sent again what it has lost, however short the window for going down is.
        again_s = max(0.0, SENT_AGAIN_S - hold_s(context.terms.ready_in_s))
        state = state.later(load.at - state.seen_at - LOOK_S + again_s)
    used = {lane: load.at for lane, seconds in load.backlog_s.items() if seconds > 0}
    if (load.demand > 0 or load.jobs or not state.used_at) and not used:
        used = dict.fromkeys(state.used_at or load.backlog_s, load.at)
    flow = state.flow.after(load.demand, elapsed, late=is_late(load, context.terms, context.fleet.ready))
    rush = of_sudden(context, load, elapsed_s=elapsed) if state.seen_at > NEVER else 0.0
    panic = flow.seen_s > elapsed and (rush > 0 or panics(flow.fast, context.fleet.ready))
    return replace(
        state,
        seen_at=load.at,
        flow=flow,
        pause_s=_pause(state, load.at) if used else state.pause_s,
        used_at={**state.used_at, **used},
        left_s=sum(load.backlog_s.values()) - load.refused_s,
        sudden=rush,
        panic_until=load.at + PANIC_S if panic else state.panic_until,
    )


def _pause(state: State, at: float) -> float:
    """How long work mostly stays away before it comes again, where that is long; a longer pause counts at once."""
    pause = at - max(state.used_at.values(), default=at)
    if pause < IDLE_S / 2:
        return state.pause_s
    return max(pause, 0.7 * state.pause_s + 0.3 * pause) if pause <= IDLE_MOST_S else 0.0


def _choose(context: Context, load: Load, state: State, found: Need) -> Steady:
    have, window = _have(context), hold_s(context.terms.ready_in_s)
    work = load.jobs > 0 or any(seconds > 0 for seconds in load.backlog_s.values())
    quiet = context.now - max(state.used_at.values(), default=context.now)
    if not work and quiet >= max(window, IDLE_S, min(1.5 * state.pause_s, IDLE_MOST_S)):
        return Steady(0, "idle")
    held = max((height for _, height in state.peaks), default=0.0)
    chosen = steady(
        have=have,
        need=found.all,
        held=max(held, found.all),
        panic=in_panic(context, state),
        rested_s=context.now - state.down_at,
        window_s=window,
        carries=lambda workers: carries(workers, load, context.terms),
    )
    if chosen.target < 1:
        # The last one stays until the pool is idle; and work of which nobody knows how long it takes needs one.
        return Steady(1, "first" if have < 1 and work else "hold.last") if have or work else Steady(0, "idle")
    # Unknown is not zero: each job whose time nobody knows may take a worker for long.
    kept = min(have, math.ceil(found.all) + load.untimed)
    return Steady(kept, "hold.untimed") if kept > chosen.target else chosen


def _hold(context: Context) -> Decision:
    lost = context.load is not None and context.now - context.load.at >= context.terms.lost_after_s
    code = "hold.unknown" if context.load is None else "hold.lost" if lost else "hold.stale"
    return _decided(context, context.state, Steady(_have(context), code), None)


def _decided(context: Context, state: State, chosen: Steady, found: Need | None) -> Decision:
    terms, have = context.terms, _have(context)
    target = min(max(chosen.target, terms.least), terms.most)
    code = chosen.code
    if target != chosen.target:
        code = "least" if target > chosen.target else "most"
    if target > have:
        more = target - have
        starting = context.fleet.starting
        before = state.ordered_at if starting else context.now
        ordered = (before * starting + context.now * more) / (starting + more)
        state = replace(state, ordered_at=ordered)
    elif target < have:
        state = replace(state, down_at=context.now)
    state = replace(state, target=target)
    parked = spares(context, state, target)
    if found is None:  # without signals spares stay as well
        parked = max(parked, min(context.fleet.parked, terms.most - target), 0)
    reason = sentence(context, state, found, before=have, target=target, parked=parked, code=code)
    return Decision(target=target, parked=parked, state=state, code=code, reason=reason)
