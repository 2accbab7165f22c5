"""How a pool's workers become those of another revision, without a gap: PURE.

A revision is what workers are started as: their modules, an image, and with these the versions of their models. New
workers come up beside the old ones and are ready before any of those drains. Where there is no room for one more, one
old worker goes first, and no second one before the new one is ready. With a ``share`` below 1 both stay: a canary.

Level triggered, as everything that scales: it is asked at each look, with the workers as they are and the number that
is wanted now, and says what is missing. A revision that does not come up stops here, with the old workers in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from penstock.policy.scaling.victims import Candidate, Phase, victims


class Rollout(Struct, frozen=True, kw_only=True):
    """What was asked for."""

    revision: str
    #: What workers are that are not of ``revision`` yet, and more of them where they are needed. It may be the same,
    #: where nothing else can be started any more.
    before: str = ""
    #: Of the workers, those that are to be of ``revision``.
    share: float = 1.0
    #: Workers beyond those that the load wants, while it lasts.
    surge: int = 1
    paused: bool = False


class Member(Struct, frozen=True):
    """One worker of the pool that is not draining."""

    id: str
    revision: str
    phase: Phase
    #: When it was made.
    since: float
    #: Whether nobody else serves a version that somebody's jobs ask for.
    keep: bool = False


class Seen(Struct, frozen=True, kw_only=True):
    """Everything that a step depends on."""

    rollout: Rollout
    members: Sequence[Member]
    #: Workers that are wanted, of all revisions, and for how many there is room.
    target: int
    most: int
    #: Workers that drain: their devices are not free yet.
    draining: int = 0
    #: Why workers do not come up, for a person; empty: they do.
    stuck: str = ""


class Step(Struct, frozen=True, kw_only=True):
    """What is to be done now."""

    #: Workers to start, by revision.
    add: Mapping[str, int] = field(default_factory=dict)
    drain: Sequence[str] = ()
    #: A stable word: ``done``, ``canary``, ``start``, ``wait``, ``drain``, ``swap``, ``stuck``, ``kept``, ``full``,
    #: ``paused``.
    code: str
    #: One sentence for a person.
    reason: str


def step(seen: Seen) -> Step:
    """The next step, which may be none."""
    rollout = seen.rollout
    here = [member for member in seen.members if member.phase != "parked"]
    new = [member for member in here if member.revision == rollout.revision]
    old = [member for member in here if member.revision != rollout.revision]
    want_new, want_old = _split(seen, new, old)
    total, limit = len(here) + seen.draining, _limit(seen, want_new + want_old)

    drain = _leaving(seen, old, len(old) - want_old, want_new + want_old)
    drain += _leaving(seen, new, len(new) - want_new, want_new + want_old, already=len(drain))
    missing = max(0, want_new - len(new))
    coming = sum(member.phase == "starting" for member in new)
    # The next one has no place to begin with, or one that has begun waits for it.
    waits = bool(seen.stuck) and total > seen.target + _surge(seen) if coming else bool(missing) and total >= limit
    swap = waits and not drain and not seen.draining
    if swap:
        drain = victims(_candidates(member for member in old if not member.keep), 1)
        swap = bool(drain)
    room = max(0, limit - total)
    start = min(missing, room)
    if seen.stuck:
        start = min(start, max(0, max(1, rollout.surge) - coming))
    more = min(max(0, want_old - len(old)), room - start)
    add = Counter({rollout.revision: start})
    add[rollout.before] += more
    if rollout.share >= 1 and not rollout.paused:
        # They would wake as what nobody wants any more.
        drain += [m.id for m in seen.members if m.phase == "parked" and m.revision != rollout.revision and not m.keep]
    code = _code(seen, new, old, want_new, starts=bool(+add), drains=bool(drain), swap=swap)
    return Step(add=dict(+add), drain=drain, code=code, reason=_reason(seen, new, old, code))


def _split(seen: Seen, new: Sequence[Member], old: Sequence[Member]) -> tuple[int, int]:
    """How many workers of the new revision there should be now, and how many others."""
    rollout, target = seen.rollout, seen.target
    if rollout.paused and old:
        return min(len(new), target), target - min(len(new), target)
    if target == 0:
        want_new, want_old = 0, 0
    elif rollout.share >= 1:
        want_new, want_old = target, 0
    elif rollout.share <= 0:
        want_new, want_old = 0, target
    else:
        # Of a canary there is one, and somebody to compare it with.
        want_new = max(1, round(rollout.share * target))
        want_old = max(1, target - want_new)
        want_new = min(want_new, max(0, seen.most - want_old))
    if old and want_new and not any(map(_is_ready, new)):
        # Until the first has come up, nothing depends on it: more work is for what is known to work.
        want_new = min(want_new, max(1, _surge(seen)))
        want_old = max(want_old, target + _surge(seen) - want_new)
    kept = sum(member.keep for member in old)
    if kept > want_old:
        want_new, want_old = max(target - kept, min(1, target, seen.most - kept), 0), kept
    return want_new, want_old


def _surge(seen: Seen) -> int:
    """Workers beyond those that are wanted, as far as there is room."""
    return max(0, min(seen.rollout.surge, seen.most - seen.target))


def _limit(seen: Seen, wanted: int) -> int:
    """Workers at once, those that drain among them."""
    return max(min(max(seen.target + seen.rollout.surge, wanted), seen.most), seen.target)


def _leaving(seen: Seen, members: Sequence[Member], surplus: int, wanted: int, *, already: int = 0) -> list[str]:
    """Who goes of a surplus: what is starting at once, what is ready as far as enough others are."""
    if surplus <= 0:
        return []
    free = [member for member in members if not member.keep]
    starting = [member for member in free if not _is_ready(member)]
    gone = victims(_candidates(starting), surplus)
    ready = sum(_is_ready(member) for member in seen.members)
    spare = ready - already - min(seen.target, wanted)
    return gone + victims(_candidates(filter(_is_ready, free)), min(surplus - len(gone), spare))


def _candidates(members: Iterable[Member]) -> list[Candidate]:
    return [Candidate(member.id, member.phase, member.since) for member in members]


def _is_ready(member: Member) -> bool:
    return member.phase in ("idle", "busy")


def _code(
    seen: Seen,
    new: Sequence[Member],
    old: Sequence[Member],
    want_new: int,
    *,
    starts: bool,
    drains: bool,
    swap: bool,
) -> str:
    rollout = seen.rollout
    if rollout.paused and old:
        return "paused"
    if swap:
        return "swap"
    if drains:
        return "drain"
    if seen.stuck and any(member.phase == "starting" for member in new):
        return "stuck"
    if starts:
        return "start"
    if seen.draining or any(member.phase == "starting" for member in (*new, *old)):
        return "wait"
    if not old and rollout.share >= 1:
        return "done"
    if 0 < rollout.share < 1 and not want_new and seen.target:
        return "full"
    if any(member.keep for member in old):
        return "kept"
    return "canary" if rollout.share < 1 else "wait"


def _reason(seen: Seen, new: Sequence[Member], old: Sequence[Member], code: str) -> str:
    ready = sum(map(_is_ready, new))
    have = f"{ready} of {len(new)} workers of {seen.rollout.revision!r} are ready, {len(old)} others are there"
    return {
        "paused": f"paused: {have}",
        "swap": f"there is no room for one more worker, so one goes first; {have}"
        + ("; it is the only one, so nobody serves meanwhile" if seen.target == 1 else ""),
        "drain": f"what is not needed any more drains: {have}",
        "stuck": f"the new workers do not come up, and the old ones stay: {seen.stuck}",
        "start": f"workers start: {have}",
        "done": f"all {len(new)} workers are of {seen.rollout.revision!r}",
        "wait": f"waiting until workers are ready or gone: {have}",
        "kept": f"open jobs ask for versions that only old workers serve: {have}",
        "full": f"there is no room for one beside the only worker; raise the pool's max: {have}",
        "canary": f"{seen.rollout.share:.0%} is wanted of {seen.rollout.revision!r}: {have}",
    }[code]


def keepers(
    members: Sequence[Member],
    serves: Mapping[str, frozenset[tuple[str, str]]],
    asked: frozenset[tuple[str, str]],
    revision: str,
) -> frozenset[str]:
    """The ids of old members that stay for versions that jobs ask for, ``(model, version)``, as few as it takes.

    ``serves`` is what each member has announced. What one of the new revision serves needs nobody else.
    """
    left = {one for one in asked if any(one in served for served in serves.values())}
    for member in members:
        if member.revision == revision and _is_ready(member):
            left -= serves.get(member.id, frozenset())
    kept: set[str] = set()
    old = [member for member in members if member.revision != revision]
    while left:
        best = max(
            old,
            key=lambda member: (len(serves.get(member.id, frozenset()) & left), _is_ready(member), -member.since),
            default=None,
        )
        if best is None or not (found := serves.get(best.id, frozenset()) & left):
            break
        kept.add(best.id)
        left -= found
    return frozenset(kept)
