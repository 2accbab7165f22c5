"""Who is dead is decided without comparing two machines' clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.liveness import Seen, judge
from penstock.store.records import WorkerInfo

TTL = 30.0


def lease(seen_at: float, ttl: float = TTL, instance: str = "w1") -> WorkerInfo:
    return WorkerInfo(
        instance=instance,
        name="w",
        pool="default",
        started_at=0.0,
        seen_at=seen_at,
        lease_until=seen_at + ttl,
        info={},
    )


@pytest.mark.parametrize("skew", [-1e6, -31.0, 0.0, 31.0, 1e6])
@pytest.mark.parametrize(
    ("looks", "dead_at"),
    [
        # (when the judge looks, when the worker last beat), both on one true clock
        ([(0, 0), (10, 5), (20, 15), (60, 55)], None),
        ([(0, 0), (10, 0), (29.9, 0)], None),
        ([(0, 0), (10, 0), (30, 0)], 30),
        ([(0, -1000)], None),
        ([(0, -1000), (29, -1000), (31, 30)], None),
        ([(0, 0), (25, 20), (49, 20), (56, 20)], 56),
    ],
)
def test_a_worker_is_dead_after_one_silent_lease(looks, dead_at, skew: float):
    seen: dict[str, Seen] = {}
    found = None
    for at, beat in looks:
        seen, dead = judge(seen, [lease(1_700_000_000.0 + beat + skew)], now=float(at))
        if dead and found is None:
            found = at
    assert found == dead_at


def test_who_is_gone_is_forgotten():
    seen, _ = judge({}, [lease(0.0), lease(0.0, instance="w2")], now=0.0)
    seen, dead = judge(seen, [lease(0.0, instance="w2")], now=TTL)
    assert list(seen) == ["w2"]
    assert dead == [("w2", TTL)]


@given(
    skew=st.floats(-1e9, 1e9),
    beats=st.lists(st.floats(0.1, TTL * 0.9), min_size=1, max_size=30),
    look_every=st.floats(0.1, 100.0),
)
def test_one_that_beats_is_never_dead(skew: float, beats: list[float], look_every: float):
    times = [0.0]
    for pause in beats:
        times.append(times[-1] + pause)
    seen: dict[str, Seen] = {}
    at = 0.0
    while at < times[-1]:
        beat = max(t for t in times if t <= at)
        seen, dead = judge(seen, [lease(1e9 + beat + skew)], now=at)
        assert not dead
        at += look_every
