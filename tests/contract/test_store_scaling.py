"""Records of scaling in SQL, on both databases."""

from __future__ import annotations

from msgspec.structs import replace

from penstock.store import Store
from penstock.store.elastic import Change, Minute
from tests.fixtures.store import T0

FIRST = Minute(
    pool="gpu",
    at=T0,
    epoch=1,
    seconds=60.0,
    demand_s=90.0,
    demand_most=4.0,
    backlog_s=30.0,
    backlog_most=2.5,
    wanted_s=120.0,
    ready_s=100.0,
    busy_s=80.0,
    starting_s=20.0,
    parked_s=60.0,
    draining_s=5.0,
    ready_in_s=8.0,
    wake_in_s=0.25,
)


def change(at: float, pool: str = "gpu") -> Change:
    return Change(pool=pool, at=at, epoch=1, before=1, after=2, parked=1, code="steady", reason="it is – needed")


def test_minutes_are_kept_and_told_in_order(store: Store) -> None:
    later = replace(FIRST, at=T0 + 60, ready_in_s=None, wake_in_s=None)
    store.elastic.record([later, FIRST, replace(FIRST, pool="cpu")])
    store.elastic.record([])
    assert store.elastic.history("gpu", since=T0, until=T0 + 120) == [FIRST, later]
    assert store.elastic.history("gpu", since=T0 + 1, until=T0 + 120) == [later]
    assert store.elastic.history("gpu", since=T0, until=T0 + 60) == [FIRST]
    assert store.elastic.history("none", since=T0, until=T0 + 60) == []


def test_a_minute_that_is_told_again_is_replaced(store: Store) -> None:
    store.elastic.record([replace(FIRST, seconds=10.0, demand_s=1.0)])
    store.elastic.record([FIRST])
    store.elastic.record([FIRST])
    assert store.elastic.history("gpu", since=T0, until=T0 + 60) == [FIRST]


def test_a_minute_of_two_leaders_is_the_sum_of_their_parts(store: Store) -> None:
    store.elastic.record([replace(FIRST, seconds=20.0, demand_s=30.0, demand_most=9.0)])
    store.elastic.record([replace(FIRST, epoch=2, seconds=40.0, demand_s=12.0, ready_in_s=None)])
    [minute] = store.elastic.history("gpu", since=T0, until=T0 + 60)
    assert (minute.epoch, minute.seconds, minute.demand_s, minute.demand_most) == (2, 60.0, 42.0, 9.0)
    assert (minute.ready_s, minute.backlog_most, minute.ready_in_s) == (200.0, 2.5, 8.0)


def test_decisions_are_told_from_the_newest(store: Store) -> None:
    changes = [change(T0 + n, "gpu" if n % 2 else "cpu") for n in range(6)]
    store.elastic.changed(*changes)
    store.elastic.changed(changes[0])
    newest = changes[::-1]
    assert store.elastic.changes() == newest
    assert store.elastic.changes(limit=2) == newest[:2]
    assert store.elastic.changes("gpu") == newest[::2]
    assert store.elastic.changes("none") == []


def test_old_records_are_removed_a_part_at_a_time(store: Store) -> None:
    store.elastic.record([replace(FIRST, at=T0 + 60 * n) for n in range(5)])
    store.elastic.changed(*[change(T0 + 60 * n) for n in range(5)])
    assert store.elastic.prune(before=T0 + 180, limit=2) == 2
    assert store.elastic.prune(before=T0 + 180, limit=2) == 1
    assert store.elastic.prune(before=T0 + 180, limit=2) == 0
    kept = [T0 + 180, T0 + 240]
    assert [each.at for each in store.elastic.history("gpu", since=0.0, until=T0 + 1e6)] == kept
    assert [each.at for each in store.elastic.changes()] == kept[::-1]
