"""``penstock plan`` on records as the autoscaler leaves them, in a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from penstock import clock
from penstock.policy.latency import LatencyModel
from penstock.store import Store
from penstock.store.elastic import Minute
from penstock.store.records import Latency
from tests.fixtures.cli import Penstock

DAY = 1440
Record = Callable[..., None]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is kept is read back from both in the contract of the store."""
    return sqlite_url


@pytest.fixture
def planned(penstock: Penstock, database_url: str) -> Penstock:
    penstock.env |= {
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_POOLS": '{"gpu": {"max": 20}, "cpu": {}}',
        "PENSTOCK_LANES__INTERACTIVE__TARGET": "1",
    }
    return penstock


@pytest.fixture
def plain_store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


def record(store: Store, pool: str, rate: float, minutes: int, *, ago: int = 0, workers: int = 4) -> None:
    """Steady traffic that ended so many minutes ago."""
    until = clock.now() // 60 * 60 - 60 * (ago + 1)
    one = Minute(
        pool=pool, at=0, epoch=1, seconds=60, demand_s=rate * 60, demand_most=rate, wanted_s=workers * 60.0,
        ready_s=workers * 60.0, ready_in_s=12.0,
    )  # fmt: skip
    store.elastic.record([replace(one, at=until - 60 * index) for index in range(minutes)])


def test_a_plan_answers_the_three_questions(planned: Penstock, plain_store: Store) -> None:
    record(plain_store, "gpu", 3.0, 3 * 60)
    done = planned("plan", "gpu", "--since", "3h", "--min", "8", "--traffic", "10", "--price", "2", "--json")
    assert done.status == 0, done.err
    plan = done.json()
    assert plan["pool"] == "gpu" and plan["covered"] == pytest.approx(1.0, abs=0.01)
    assert plan["traffic"]["mean"] == pytest.approx(3.0) and plan["ready_in_s"] == 12.0
    assert plan["recorded"]["worker_s"] == pytest.approx(4 * 10800, rel=0.01) and "late" not in plan["recorded"]
    replayed = plan["replayed"]
    assert replayed["as asked"]["workers"] >= 8 > replayed["as set"]["workers"] >= 3
    assert replayed["as asked"]["cost"] == pytest.approx(2 * replayed["as asked"]["worker_s"] / 3600, rel=0.01)
    assert replayed["2 times the traffic"]["demand_s"] == pytest.approx(6 * 10800, rel=0.01)
    assert plan["needs"]["--traffic"]["workers"] >= 10 and not plan["needs"]["--traffic"]["bound"]

    told = planned("plan", "gpu", "--since", "3h", "--times", "9", "--price", "2")
    assert told.status == 0, told.err
    for words in ("pool gpu: 3.0 h seen", "3 on average", "as it was", "9 times the traffic", "busiest minute"):
        assert words in told.out, told.out


def test_all_pools_that_have_records_are_planned_and_the_others_named(planned: Penstock, plain_store: Store) -> None:
    record(plain_store, "gpu", 1.0, 60)
    record(plain_store, "cpu", 1.0, 5)
    done = planned("plan", "--json", "--since", "1h")
    assert [plan["pool"] for plan in done.jsonl()] == ["gpu"]
    assert "pool cpu has less than 10 min of records" in done.err
    assert any("min were seen: no day" in doubt for doubt in done.jsonl()[0]["doubts"])


@pytest.mark.parametrize("pool", [(), ("gpu",), ("nobody's",)])
def test_without_records_there_is_no_plan(planned: Penstock, plain_store: Store, pool: tuple[str, ...]) -> None:
    """Nine minutes, and old ones: neither is made into an answer."""
    record(plain_store, "gpu", 1.0, 9)
    record(plain_store, "gpu", 1.0, 60, ago=3 * DAY)
    done = planned("plan", *pool, "--since", "1d")
    assert done.status == 1 and done.out == ""
    assert "too little to plan from" in done.err and "penstock autoscaler" in done.err


def test_traffic_can_be_said_in_jobs_of_a_model(planned: Penstock, plain_store: Store) -> None:
    record(plain_store, "gpu", 1.0, 60)
    line = LatencyModel()
    for _ in range(50):
        line.observe(1.0, 0.1)
    plain_store.register_worker(
        "w", name="w", pool="gpu", lease_until=clock.now() + 60, now=clock.now(),
        info={"models": {"embed": {"version": "1", "max_size": 1}, "new": {"version": "1", "max_size": 1}}},
    )  # fmt: skip
    plain_store.keep_latencies([Latency("embed", "1", "cpu", "", line.state())], now=clock.now())
    plan = planned("plan", "gpu", "--since", "1h", "--model", "embed", "--rate", "50", "--json").json()
    assert plan["needs"]["50 embed/s"]["traffic"] == pytest.approx(5.0, rel=0.05)

    new = planned("plan", "gpu", "--since", "1h", "--model", "new", "--rate", "50")
    assert new.status == 1 and "--traffic" in new.err
    unknown = planned("plan", "gpu", "--since", "1h", "--model", "nobody", "--rate", "50")
    assert unknown.status == 2 and "model list" in unknown.err
    half = planned("plan", "gpu", "--model", "embed")
    assert half.status == 2 and "belong together" in half.err
