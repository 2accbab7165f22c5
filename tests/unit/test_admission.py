"""Admission at enqueue: the decision in tables, the picture between readings, the level, the retry budget."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.policy.admission import (
    BURST,
    FRESH_S,
    RETRY_MAX_S,
    Admit,
    Ask,
    Refuse,
    WorkerLoad,
    combine,
    decide,
    promised,
)
from penstock.policy.overload import LOWEST, RETRIES_AT_ONCE, STANDING_S, Level, RetryBudget, keeping
from penstock.policy.picture import LATELY_S, STALE_S, Crowd, Picture
from penstock.policy.sharing import Shares, Standing
from tests.fixtures.examples import examples

NOW = 1000.0
#: 8 ms + 0.25 ms per item, 64 to a batch: 24 ms for a full one, 2,667 items a second.
QUICK = WorkerLoad(
    at=NOW,
    busy_until=NOW,
    waiting=0,
    room=128,
    filled=False,
    alpha=0.008,
    beta=0.00025,
    factor=1.05,
    size=64,
    free=1.0,
    level=0.9,
    done=0,
    seen=100,
)
#: 300 ms alone, nothing to batch.
SLOW = replace(QUICK, alpha=0.3, beta=0.0, size=1, room=2)


def verdict(load: WorkerLoad, ready: int = 0, workers: int = 1, **ask: Any) -> Admit | Refuse:
    said = [load] * workers
    return decide(combine(said, (ready, 0, 0, 0), now=NOW), Ask(**{"now": NOW, "target_s": 0.1} | ask), Random(1))


#: A full batch takes 296 ms of a target of 400: with half of it, which is nearly as efficient, it is kept.
TIGHT = replace(QUICK, alpha=0.04, beta=0.004, size=64.0, level=0.9, busy_until=NOW, waiting=0, room=0)


def soon(seconds: float) -> dict[str, float]:
    return {"deadline_at": NOW + seconds}


@pytest.mark.parametrize(
    ("load", "ready", "ask", "reason"),
    [
        pytest.param(QUICK, 0, {}, None, id="idle"),
        pytest.param(QUICK, 0, soon(0.02), None, id="idle-deadline"),
        pytest.param(replace(QUICK, busy_until=NOW + 0.024, filled=True), 0, {}, None, id="background-runs"),
        pytest.param(QUICK, 100, {}, "overload", id="queue-and-full-workers"),
        pytest.param(QUICK, 64, soon(0.2), None, id="later-deadline-has-room"),
        pytest.param(QUICK, 1000, soon(0.2), "overload", id="queue-beyond-the-deadline"),
        pytest.param(QUICK, 1000, soon(10.0), None, id="queue-within-the-deadline"),
        pytest.param(replace(QUICK, level=1.0), 1000, {}, None, id="burst-on-a-calm-system"),
        pytest.param(replace(QUICK, level=1.0), 1000, soon(0.1), "overload", id="burst-with-deadline"),
        pytest.param(replace(QUICK, level=1.0), 10_000, {}, "overload", id="burst-too-large"),
        pytest.param(QUICK, 0, soon(0.005), "deadline", id="shorter-than-the-model"),
        pytest.param(replace(QUICK, factor=0.05), 0, soon(0.005), None, id="durations-vary-with-the-input"),
        pytest.param(QUICK, 1000, soon(-1.0), None, id="passed-already-expires-as-ever"),
        pytest.param(replace(QUICK, seen=3), 10_000, {}, None, id="cold-worker"),
        pytest.param(replace(QUICK, at=NOW - FRESH_S - 1, busy_until=NOW - 5), 10_000, {}, None, id="dead-worker"),
        pytest.param(replace(QUICK, at=NOW - 9, busy_until=NOW + 1), 10_000, {}, "overload", id="long-batch-is-alive"),
        pytest.param(SLOW, 0, {}, None, id="slow-idle"),
        pytest.param(replace(SLOW, busy_until=NOW + 0.3), 0, {}, None, id="slow-busy"),
        pytest.param(SLOW, 5, {}, "overload", id="slow-queue"),
        pytest.param(TIGHT, 30, {"target_s": 0.4}, None, id="two-smaller-batches-are-in-time"),
        pytest.param(TIGHT, 100, {"target_s": 0.4}, "overload", id="two-full-ones-would-not-be"),
        pytest.param(replace(TIGHT, level=1.0), 300, {"target_s": 0.4}, None, id="a-burst-on-a-calm-system-may-wait"),
        pytest.param(
            replace(TIGHT, level=LOWEST, busy_until=NOW + 0.296, filled=True),
            0,
            {"target_s": 0.4},
            None,
            id="a-lone-job-behind-a-background-batch",
        ),
        pytest.param(
            replace(TIGHT, level=LOWEST, busy_until=NOW + 0.296),
            50,
            {"target_s": 0.4},
            "overload",
            id="not-one-in-the-batch-after-the-next",
        ),
        pytest.param(
            replace(TIGHT, busy_until=NOW + 0.296, filled=True),
            0,
            {"target_s": 0.4} | soon(0.4),
            "overload",
            id="behind-a-background-batch-it-would-miss-its-deadline",
        ),
        pytest.param(TIGHT, 30, {"target_s": 0.4} | soon(0.4), None, id="a-deadline-that-smaller-batches-keep"),
        pytest.param(TIGHT, 70, {"target_s": 0.4} | soon(0.4), "overload", id="a-full-batch-is-before-it"),
        pytest.param(TIGHT, 70, {"target_s": 0.4} | soon(1.0), None, id="a-deadline-that-full-batches-keep"),
        pytest.param(TIGHT, 100, {"target_s": 0.2}, None, id="of-a-target-out-of-reach-three-full-ones-count"),
        pytest.param(QUICK, 120, {"priority": 9}, None, id="higher-priority-passes-the-queue"),
        pytest.param(QUICK, 0, {"added": 1000.0}, "overload", id="own-since-the-reading"),
    ],
)
def test_decision(load: WorkerLoad, ready: int, ask: dict[str, Any], reason: str | None) -> None:
    decision = verdict(load, ready, **ask)
    assert (decision.reason if isinstance(decision, Refuse) else None) == reason
    if isinstance(decision, Refuse) and reason == "overload":
        # What it says of itself is what decided: the time that it needs may well be below its limit.
        assert decision.wait_s > decision.allowed_s


def test_other_models_on_the_device_make_the_wait_longer_not_the_batch() -> None:
    """Alone it would take 24 ms and is not refused for what others take; behind a queue of its own it is."""
    shared = replace(QUICK, free=0.1, level=1.0)
    assert isinstance(verdict(shared, 0, **soon(0.04)), Admit)
    assert isinstance(verdict(replace(shared, free=1.0), 100, **soon(0.15)), Admit)
    assert isinstance(verdict(shared, 100, **soon(0.15)), Refuse)


@pytest.mark.parametrize(
    ("told", "target_s"), [((), 0.1), ((None,), 0.1), ((5.0,), 5.0), ((0.05, None), 0.05), ((0.1, 5.0), 5.0)]
)
def test_the_target_is_that_of_the_pool_if_its_workers_say_one(told: tuple[float | None, ...], target_s: float) -> None:
    assert promised([replace(QUICK, target_s=each) for each in told], 0.1) == target_s


def test_nothing_known_is_admitted() -> None:
    assert combine([], (5000, 0, 0, 0), now=NOW) is None
    assert decide(None, Ask(now=NOW, target_s=0.1, deadline_at=NOW + 1e-6), Random(1)) == Admit()


def test_workers_and_shares_count() -> None:
    ask = soon(0.15)
    assert isinstance(verdict(QUICK, 300, **ask), Refuse)
    assert isinstance(verdict(QUICK, 300, workers=4, **ask), Admit)
    assert isinstance(verdict(replace(QUICK, free=0.2), 300, workers=4, **ask), Refuse)


def test_advice_grows_with_the_queue_and_is_bounded() -> None:
    def advice(ready: int) -> float:
        decision = verdict(QUICK, ready)
        assert isinstance(decision, Refuse)
        return decision.retry_after_s

    assert 0 < advice(200) < advice(2000) < advice(20_000) <= advice(10**9) == RETRY_MAX_S


def test_the_edge_is_soft() -> None:
    """Near the limit some are admitted and some are not, so that producers do not all turn round at once."""
    rng = Random(7)
    load = combine([replace(QUICK, level=0.9)], (0, 0, 0, 0), now=NOW)
    kinds = {
        n: {type(decide(load, Ask(now=NOW, target_s=0.1, added=float(n)), rng)) for _ in range(60)}
        for n in range(0, 400, 4)
    }
    assert kinds[0] == {Admit}
    assert kinds[396] == {Refuse}
    assert any(len(fates) == 2 for fates in kinds.values())


loads = st.builds(
    lambda **fields: replace(QUICK, **fields),
    busy_until=st.floats(NOW, NOW + 0.02),
    alpha=st.floats(1e-4, 100.0),
    beta=st.floats(1e-9, 1.0),
    size=st.integers(1, 256),
    factor=st.floats(0.01, 2.0),
    level=st.floats(LOWEST, 1.0),
    filled=st.booleans(),
    free=st.floats(0.0, 1.0),
    room=st.integers(0, 512),
)
#: How many of its full batches a worker is still busy for; a batch may be longer than one that is full by now.
busy = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 3.0))


class Drawn(Random):
    """The edge at one place: 0 is the kindest, just below 1 the strictest."""

    def __init__(self, drawn: float) -> None:
        super().__init__(0)
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


draws = st.sampled_from([0.0, 0.5, 1.0 - 2**-53])


@given(load=loads, more=st.lists(loads, max_size=3), alike=st.booleans(), busy=st.lists(busy, min_size=4, max_size=4),
       target_s=st.floats(1e-3, 10.0), priority=st.integers(0, 9), shared=st.booleans(), drawn=draws)  # fmt: skip
@example(load=replace(QUICK, alpha=0.0078125, beta=0.03125, size=13, factor=1.0, level=0.5), more=[], alike=True,
         busy=[1.0] * 4, target_s=0.1, priority=0, shared=False, drawn=1.0 - 2**-53)  # fmt: skip
@example(load=replace(QUICK, alpha=0.04, beta=0.004, level=0.3), more=[QUICK], alike=True,
         busy=[1.0, 0.0, 0.0, 0.0], target_s=0.4, priority=0, shared=False, drawn=0.5)  # fmt: skip
def test_no_model_is_refused_for_being_slow(
    load: WorkerLoad,
    more: list[WorkerLoad],
    alike: bool,
    busy: list[float],
    target_s: float,
    priority: int,
    shared: bool,
    drawn: float,
) -> None:
    """Without a deadline and without a queue there is no refusal: whatever the speed, the level, what runs where."""
    workers = [load, *([load] * len(more) if alike else more)]
    said = [replace(one, busy_until=NOW + one.full_s * batches) for one, batches in zip(workers, busy, strict=False)]
    share = Shares({}).of("a") if shared else None
    picture = combine(said, (0, 0, 0, 0), now=NOW, share=share, shared=shared)
    verdict = decide(picture, Ask(now=NOW, target_s=target_s, priority=priority), Drawn(drawn))
    assert isinstance(verdict, Admit)


def test_with_a_deadline_and_no_queue_a_job_waits_for_the_device_that_is_free_first() -> None:
    """One of two is idle; that the other has just begun a full batch is no reason."""
    workers = [replace(TIGHT, level=LOWEST), replace(TIGHT, level=LOWEST, busy_until=NOW + 0.296)]
    picture = combine(workers, (0, 0, 0, 0), now=NOW)
    verdict = decide(picture, Ask(now=NOW, target_s=0.4, deadline_at=NOW + 0.1), Random(1))
    assert verdict == Admit(0.0)


@given(
    load=loads,
    busy=busy,
    batches=st.lists(st.floats(0.0, 4.0), min_size=4, max_size=4),
    deadline=st.floats(0.1, 9.0),
    longer=st.sampled_from([1.01, 1.1, 1.5, 3.0]),
    drawn=draws,
)
@example(
    load=replace(QUICK, alpha=0.04, beta=0.004, level=LOWEST, factor=1.0), busy=0.9, batches=[0.7, 0.0, 0.0, 0.0],
    deadline=2.2, longer=1.1, drawn=0.5,
)  # fmt: skip
def test_priority_and_patience_never_hurt(
    load: WorkerLoad, busy: float, batches: list[float], deadline: float, longer: float, drawn: float
) -> None:
    """Where a job is admitted, one of a higher priority or with a later deadline is."""
    ready = tuple(int(load.size * many) for many in batches)
    limit_s = load.full_s * deadline
    picture = combine([replace(load, busy_until=NOW + load.full_s * busy)], ready, now=NOW)

    def refused(priority: int, limit_s: float) -> bool:
        ask = Ask(now=NOW, target_s=0.1, deadline_at=NOW + limit_s, priority=priority)
        return isinstance(decide(picture, ask, Drawn(drawn)), Refuse)

    assert refused(0, limit_s) or not any(refused(priority, limit_s) for priority in (3, 6, 9))
    assert refused(0, limit_s) or not refused(0, limit_s * longer + 1e-6)


# The picture ----------------------------------------------------------------------------------------------------


def ask(picture: Picture, now: float, deadline_s: float | None = 0.1) -> bool:
    deadline_at = None if deadline_s is None else now + deadline_s
    decision = picture.decide(now=now, target_s=0.1, deadline_at=deadline_at, priority=0, rng=Random(3))
    return isinstance(decision, Admit)


def test_a_picture_counts_what_it_admits_and_what_is_done() -> None:
    picture = Picture()
    assert all(ask(picture, NOW) for _ in range(5000))  # nothing known
    picture.take({"w": QUICK}, (0, 0, 0, 0), ours=5000, now=NOW)
    admitted = sum(ask(picture, NOW) for _ in range(1000))
    assert 100 <= admitted <= 210  # what a worker does in (100 ms - one batch), at this level
    later = replace(QUICK, at=NOW)
    assert not ask(picture, NOW)
    assert sum(ask(picture, NOW + 0.04) for _ in range(1000)) == pytest.approx(0.04 * 2667, rel=0.3)
    picture.take({"w": later}, (0, 0, 0, 0), ours=picture.submitted, now=NOW + 1)
    assert ask(picture, NOW + 1)


def test_an_old_picture_is_none() -> None:
    picture = Picture()
    picture.take({"w": QUICK}, (100_000, 0, 0, 0), ours=0, now=NOW)
    assert not ask(picture, NOW + 1)
    assert ask(picture, NOW + STALE_S + 0.1)


def test_a_long_list_corrects_it_at_once() -> None:
    picture = Picture()
    picture.take({"w": QUICK}, (0, 0, 0, 0), ours=0, now=NOW)
    assert ask(picture, NOW)
    picture.saw(2000, priority=0, now=NOW)
    assert not ask(picture, NOW)


def test_other_producers_are_expected_to_go_on() -> None:
    picture = Picture()
    for n in range(10):
        now = NOW + n * 0.1
        said = replace(QUICK, at=now, busy_until=now, done=n * 400)  # 4,000 a second, none of them ours
        picture.take({"w": said}, (0, 0, 0, 0), ours=0, now=now)
    assert ask(picture, now)
    assert not ask(picture, now + 0.3)  # 1,333 a second too many for 300 ms


# Tenants that share a queue ---------------------------------------------------------------------------------------

FLOOD = Standing((2000, 0, 0, 0))
#: A queue that stands, as the workers see it.
TIRED = replace(QUICK, level=0.3, waiting=128, busy_until=NOW + 0.012)


@pytest.mark.parametrize(
    ("tenant", "standings", "ask", "reason"),
    [
        pytest.param("light", {"flood": FLOOD}, {}, None, id="light-beside-a-flood"),
        pytest.param("light", {"flood": FLOOD}, soon(0.2), None, id="light-with-a-deadline"),
        pytest.param("light", {"flood": FLOOD}, soon(0.06), "overload", id="what-is-claimed-already-is-before-all"),
        pytest.param("light", {"default": FLOOD}, soon(0.2), None, id="light-beside-the-default-tenant"),
        pytest.param("flood", {"flood": FLOOD, "light": Standing((1, 0, 0, 0))}, {}, "overload", id="the-flood"),
        pytest.param("flood", {"flood": FLOOD}, {}, "overload", id="the-flood-alone"),
        pytest.param("default", {"default": FLOOD}, soon(0.2), "overload", id="the-flood-alone-by-default"),
        pytest.param(
            "light", {"flood": FLOOD, "light": Standing((40, 0, 0, 0))}, {}, "overload", id="beyond-its-share"
        ),
        pytest.param(
            "light", {"flood": FLOOD, "light": Standing((40, 0, 0, 0), weight=4.0)}, {}, None, id="within-its-weight"
        ),
        pytest.param("light", {"flood": replace(FLOOD, weight=99.0)}, {}, "overload", id="a-heavy-flood-goes-first"),
        pytest.param("light", {str(n): Standing((1, 0, 0, 0)) for n in range(90)}, {}, "overload", id="a-crowd"),
        pytest.param("light", {"light": Standing((0, 0, 0, 30)), "flood": FLOOD}, {}, None, id="own-with-priority"),
        pytest.param("light", {"light": Standing((40, 0, 0, 0), cap=2)}, soon(1.0), "overload", id="own-cap"),
        pytest.param("light", {"light": Standing((40, 0, 0, 0), cap=20)}, soon(1.0), None, id="own-cap-is-high"),
        pytest.param(
            "light",
            {"flood": replace(FLOOD, cap=2), "light": Standing((40, 0, 0, 0))},
            {},
            None,
            id="a-flood-at-its-cap-is-passed-over",
        ),
    ],
)
def test_who_shares_a_queue(
    tenant: str, standings: dict[str, Standing], ask: dict[str, Any], reason: str | None
) -> None:
    share = Shares(standings).of(tenant)
    load = combine([TIRED], share.own.ready, now=NOW, share=share, shared=share.others > 0)
    decision = decide(load, Ask(**{"now": NOW, "target_s": 0.1} | ask), Random(1))
    assert (decision.reason if isinstance(decision, Refuse) else None) == reason


standings_of = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        Standing,
        st.tuples(*[st.integers(0, 50)] * 4),
        st.sampled_from([0.5, 1.0, 3.0]),
        st.sampled_from([None, None, 1, 5]),
    ),
    max_size=6,
)


@given(standings=standings_of, place=st.integers(1, 200), extra=st.integers(0, 100), weight=st.floats(0.1, 10.0))
def test_others_count_as_much_as_their_shares_and_no_more_than_they_have(
    standings: dict[str, Standing], place: int, extra: int, weight: float
) -> None:
    """Against the sum that it stands for; more of others' is never less ahead, and a larger weight never hurts."""
    free = {name: replace(one, cap=None) for name, one in standings.items()}
    own = free.get("a", Standing())
    others = [one for name, one in free.items() if name != "a"]
    share = Shares(free).of("a")
    expected = sum(min(one.total, place * one.weight / own.weight) for one in others)
    assert share.before(place, 64.0, share.others) == pytest.approx(expected)
    assert share.before(place, 64.0, share.others + extra) >= expected - 1e-9
    heavy = Shares(free | {"a": replace(own, weight=own.weight * (1.0 + weight))}).of("a")
    assert heavy.before(place, 64.0, heavy.others) <= expected + 1e-9
    capped = Shares(standings).of("a")
    assert -1e-9 <= capped.before(place, 64.0, capped.others) <= expected + 1e-9
    assert 0 <= capped.served(place) <= place + 1e-9


def test_a_flood_that_is_claimed_at_once_is_remembered() -> None:
    """Most of what is claimed just in time is in no reading; a light tenant must not pay for that."""
    picture = Picture()
    flood = Shares({"flood": FLOOD}).of("light")
    nobody = Shares({}).of("light")
    picture.take({"w": TIRED}, (0, 0, 0, 0), ours=0, now=NOW, share=flood)
    later = replace(TIRED, at=NOW + 1, busy_until=NOW + 1.01)
    picture.take({"w": later}, (0, 0, 0, 0), ours=0, now=NOW + 1, share=nobody)
    assert ask(picture, NOW + 1, None)
    after = NOW + 1 + LATELY_S + 0.1
    picture.take(
        {"w": replace(TIRED, at=after, busy_until=after + 0.01)}, (0, 0, 0, 0), ours=1, now=after, share=nobody
    )
    assert not ask(picture, after, None), "alone, the standing queue is its own"


def test_a_long_list_of_its_own_corrects_a_tenants_picture() -> None:
    picture = Picture(Crowd())
    picture.take({"w": TIRED}, (0, 0, 0, 0), ours=0, now=NOW, share=Shares({"flood": FLOOD}).of("light"))
    assert ask(picture, NOW, 0.3)
    picture.saw(500, priority=0, now=NOW)
    assert not ask(picture, NOW, 0.3)


# What workers learn ---------------------------------------------------------------------------------------------


def run_level(waits_s: list[float | None], every_s: float = 0.1, batch_s: float = 0.02, fill: float = 1.0) -> float:
    level = Level()
    for n, wait_s in enumerate(waits_s):
        if wait_s is not None:
            level.saw(wait_s, target_s=0.1, batch_s=batch_s, now=NOW + n * every_s, fill=fill)
    return level.value


@pytest.mark.parametrize(
    ("waits", "low", "high"),
    [
        ([0.001] * 100, 1.0, 1.0),
        ([0.05] * 4, 1.0, 1.0),  # shorter than STANDING_S
        ([0.05] * 6, 0.69, 0.71),
        ([0.5] * 2, 1.0, 1.0),  # grave, but still a burst
        ([0.5] * 3, 0.69, 0.71),
        ([0.05, 0.05, 0.05, 0.001] * 25, 1.0, 1.0),  # the queue empties each time
        ([0.5] * 9, 0.69, 0.71),  # these were admitted before the lowering was heard of
        ([0.5] * 10, 0.48, 0.50),  # those after it: as much lower as allowed at once
        ([0.5] * 16, 0.48, 0.50),
        ([0.5] * 3 + [0.04] * 6, 0.46, 0.48),  # a little too long: a little lower, three times
        ([0.5] * 2 + [None] * 1000 + [0.06], 1.0, 1.0),  # nothing was heard of for a while
        ([0.06, *[None] * 20] * 100, 1.0, 1.0),
        ([0.5] * 1000, LOWEST, LOWEST),
        ([0.5] * 9 + [0.001] * 100, 0.79, 0.81),  # up again by 1 % a second
    ],
)
def test_level(waits: list[float | None], low: float, high: float) -> None:
    assert STANDING_S == 0.5
    assert low <= run_level(waits) <= high


@pytest.mark.parametrize(
    ("fill", "low", "high"), [(1.0, 0.70, 0.72), (0.75, 0.70, 0.72), (0.5, 0.94, 0.97), (0.1, 0.95, 0.97)]
)
def test_batches_that_are_not_full_end_an_overload(fill: float, low: float, high: float) -> None:
    """Two seconds after it."""
    assert low <= run_level([0.5] * 4 + [0.001] * 20, fill=fill) <= high


def test_a_clock_that_was_set_back_does_not_hold_the_level_up() -> None:
    level = Level()
    for n in range(8):
        level.saw(0.5, target_s=0.1, batch_s=0.02, now=NOW + n * 0.1)
    before = level.value
    for n in range(8):
        level.saw(0.5, target_s=0.1, batch_s=0.02, now=NOW - 3600 + n * 0.1)
    assert LOWEST < level.value < before < 1.0


@pytest.mark.parametrize(
    ("alpha", "beta", "size", "target_s", "expected"),
    [
        pytest.param(0.008, 0.00025, 64, 0.1, 0.024, id="full batches fit"),
        pytest.param(0.04, 0.004, 64, 0.4, 0.18, id="batches of 35 fit, at nine tenths of the rate"),
        pytest.param(0.008, 0.00025, 64, 0.02, None, id="those of four that fit are a waste of the device"),
        pytest.param(0.5, 0.05, 8, 0.1, None, id="not even one fits"),
        pytest.param(0.3, 0.0, 8, 0.4, None, id="all batches take as long"),
        pytest.param(0.1, 0.0, 8, 0.4, 0.1, id="and fit"),
    ],
)
def test_which_batches_keep_a_target(
    alpha: float, beta: float, size: float, target_s: float, expected: float | None
) -> None:
    found = keeping(target_s, alpha=alpha, beta=beta, size=size)
    assert (found and found[0]) == (expected and pytest.approx(expected))
    assert found is None or alpha + beta * found[1] == pytest.approx(found[0])


def test_a_target_that_smaller_batches_keep_is_no_reason_to_wait_for_full_ones() -> None:
    """Waits of 200 ms where batches of 180 ms keep the target of 400, and full ones, of 296, would not."""
    kept, slow, lone = Level(), Level(), Level()
    for n in range(30):
        kept.saw(0.2, target_s=0.4, batch_s=0.296, kept_s=0.18, now=NOW + n * 0.18)
        slow.saw(0.2, target_s=0.4, batch_s=0.296, now=NOW + n * 0.18)
        lone.saw(0.2, target_s=0.4, batch_s=0.296, kept_s=0.18, fill=0.1, now=NOW + n * 0.18)
    assert kept.value < 0.8 and slow.value == 1.0
    assert lone.value == 1.0, "it waits for the batch before, not in a queue"


def test_a_slow_model_is_measured_by_its_own_batches() -> None:
    assert run_level([0.25] * 20, every_s=0.3, batch_s=0.3) == 1.0
    assert run_level([0.25] * 20, every_s=0.3, batch_s=0.02) < 0.9


def test_few_retries_do_not_wait() -> None:
    budget = RetryBudget()
    assert [budget.delay_s(NOW) for _ in range(int(RETRIES_AT_ONCE))] == [0.0] * int(RETRIES_AT_ONCE)
    assert budget.delay_s(NOW) == pytest.approx(1.0)


@settings(max_examples=examples(20))
@given(st.integers(0, 200), st.integers(1, 100))
def test_retries_stay_below_a_tenth(per_step: int, retries_per_step: int) -> None:
    """However many ask, what may begin in 20 s is 10 %, one a second and the reserve; none is refused for good."""
    budget, began = RetryBudget(), 0
    for step in range(200):
        now = NOW + step * 0.1
        budget.accepted(per_step, now)
        began += sum(now + budget.delay_s(now) <= NOW + 20.0 for _ in range(retries_per_step))
    allowed = 0.1 * per_step * 200 + 20.0 + RETRIES_AT_ONCE
    # The recent rate is an average with a half-life, so it lags by half of one.
    assert began <= allowed * 1.1 + 5
    assert budget.delay_s(NOW + 20.0) < float("inf")
    assert BURST > 1
