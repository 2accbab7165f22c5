"""What other releases, or hands, have written: the autoscaler makes of it what it can, and goes on with the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import clock
from penstock.autoscaler.backends.external import NOBODY_COMES, External
from penstock.autoscaler.daemon import Autoscaler
from penstock.autoscaler.observe import Observation, Observer
from penstock.errors import StoreUnavailable
from penstock.lane import PIPELINES, Lane, queue_name
from penstock.policy.scaling import Load
from penstock.policy.scaling import split as policy_split
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Change, Term
from penstock.store.records import Latency
from penstock.transport.url import connect
from tests.fixtures.store import lead


def announced(store: Store, models: dict[str, Any]) -> None:
    now = clock.now()
    store.register_worker("w@h:1:a", name="w", pool="gpu", lease_until=now + 60, now=now, info={"models": models})


def looked(settings: Settings, store: Store) -> dict[str, Load]:
    client = connect(settings.broker)
    try:
        observer = Observer(settings, store, client)
        observer.look()
        seen = observer.look()
    finally:
        client.close()
    assert seen is not None
    return dict(seen.loads)


@pytest.mark.parametrize(
    "info",
    [
        {"max_size": "many"},
        {"max_size": [1]},
        {"max_size": -3},
        {"max_size": float("inf")},
        {"version": {"major": 2}},
        {"memory": "8GiB"},
        {},
    ],
)
def test_a_model_that_is_announced_strangely_hides_no_other(settings: Settings, store: Store, info: Any) -> None:
    announced(store, {"strange": {"pool": "odd", **info}, "plain": {"pool": "gpu", "version": "1", "max_size": 8}})
    assert {"odd", "gpu"} <= looked(settings, store).keys()


@pytest.mark.parametrize("state", [{"alpha": "x", "seen": 5}, {"alpha": None, "beta": [1], "seen": "many"}, {}])
def test_a_line_that_is_none_hides_no_other(settings: Settings, store: Store, state: dict[str, Any]) -> None:
    announced(store, {"plain": {"pool": "gpu", "version": "1", "max_size": 8}})
    lines = [
        Latency("plain", "1", kind, "", each) for kind, each in (("cpu", state), ("cuda", {"alpha": 1.0, "seen": 9}))
    ]
    store.keep_latencies(lines, now=clock.now())
    assert "gpu" in looked(settings, store)


def test_jobs_of_a_model_that_has_never_run_are_seen_without_their_time(settings: Settings, store: Store) -> None:
    announced(store, {"plain": {"pool": "gpu", "version": "1", "max_size": 8}})
    for model in ("plain", PIPELINES):  # of which the second takes none
        with connect(settings.broker) as client:
            client.rpush(queue_name(settings.namespace, model, Lane.BACKGROUND), "a", "b", "c")
    found = looked(settings, store)
    assert (found["gpu"].jobs, found["gpu"].untimed, sum(found["gpu"].backlog_s.values())) == (3, 3, 0.0)
    assert all(load.untimed == 0 for pool, load in found.items() if pool != "gpu")
    store.keep_latencies([Latency("plain", "1", "cpu", "", {"alpha": 1.0, "seen": 9})], now=clock.now())
    assert (load := looked(settings, store)["gpu"]).untimed == 0 and sum(load.backlog_s.values()) > 0


class Counting(External):
    """Knows how often it was called."""

    calls = 0

    def realise(self, slots: Any, *, term: Term) -> Any:
        self.calls += 1
        return super().realise(slots, term=term)


@pytest.fixture
def scaler(settings: Settings, store: Store) -> Iterator[Callable[..., Autoscaler]]:
    made = []

    def make(**fields: Any) -> Autoscaler:
        own = settings.model_copy(update={"pools": Settings(pools={"a": {"min": 1}, "b": {"min": 2}}).pools, **fields})
        made.append(
            Autoscaler(own, store, Counting(own, store), room=lambda pools: dict.fromkeys(pools, 9), tells=False)
        )
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize(
    "state", [{"pools": [1]}, {"pools": {"a": "x", "b": {"state": [2], "ready_in_s": "y"}}}, {"pools": {"a": None}}]
)
def test_a_successor_goes_on_whatever_it_finds(
    store: Store, scaler: Callable[..., Autoscaler], state: dict[str, Any]
) -> None:
    assert store.elastic.resign(lead(store.elastic, "before"), state=state)
    assert scaler().turn()
    assert sorted(slot.pool for slot in store.elastic.slots()) == ["a", "b", "b"]


def test_a_look_that_fails_keeps_no_row_from_being_realised(
    store: Store, scaler: Callable[..., Autoscaler], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scaler()
    assert made.turn()

    def defect() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(made._observer, "look", defect)
    before = made._backend.calls  # type: ignore[attr-defined]
    assert made.turn()
    assert made._backend.calls > before  # type: ignore[attr-defined]
    assert made.pools.by_name["b"].decision is not None and made.pools.by_name["b"].decision.target == 2


def test_one_pool_that_cannot_be_decided_keeps_no_other_from_its_workers(
    store: Store, scaler: Callable[..., Autoscaler], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scaler()
    decide = made.pools.decide

    def defect(name: str, *given: Any) -> bool:
        if name == "a":
            raise RuntimeError("a defect")
        return decide(name, *given)

    monkeypatch.setattr(made.pools, "decide", defect)
    assert made.turn()
    assert [slot.pool for slot in store.elastic.slots()] == ["b", "b"]


def test_a_database_that_is_away_is_no_defect(
    scaler: Callable[..., Autoscaler], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scaler()
    assert made.turn()

    def away(*_: Any) -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(made.pools, "decide", away)
    assert not made.turn() and made.away


def test_a_split_is_explained_and_a_successor_goes_on_with_it(
    store: Store, scaler: Callable[..., Autoscaler], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    for number in range(4):
        store.register_worker(
            f"w{number}@h:1:a", name=f"w{number}@h", pool="a", lease_until=now + 600, now=now, info={"models": {}}
        )
    monkeypatch.setattr(policy_split, "SPLIT_AFTER_S", 0.0)
    pools = Settings(pools={"a": {"min": 4, "max": 4, "split": True}}).pools

    def pressed() -> Observation:
        at = clock.monotonic_s()
        backlog_s = {Lane.BACKGROUND: 400.0}
        load = Load(at=at, demand=1.0, backlog_s=backlog_s, interactive=0.5, longest_s=2.0)
        return Observation(loads={"a": load})

    def splits() -> list[Change]:
        return [change for change in store.elastic.changes("a") if "interactive jobs only" in change.reason]

    first = scaler(pools=pools)
    monkeypatch.setattr(first._observer, "look", pressed)
    for _ in range(4):  # rows, workers in them, the split, and what of it is left to a successor
        assert first.turn()
    [change] = splits()
    assert (change.code, change.before, change.after) == ("split", 4, 4)
    assert change.reason.startswith("1 of 4 workers does interactive jobs only: background work has pressed for")
    first.stop()
    second = scaler(pools=pools)
    assert second.turn() and second.turn()
    found = store.elastic.leadership()
    assert found is not None
    left = found.state["pools"]["a"]["split"]
    assert (left["alone"], left["told"]) == (1, ["w0@h"])
    assert splits() == [change], "it is the same split"


def test_why_workers_do_not_come_up_is_recorded_and_not_told_to_everybody(
    store: Store, settings: Settings, scaler: Callable[..., Autoscaler]
) -> None:
    quick = settings.autoscaler.model_copy(update={"start_s": 0.001})
    first = scaler(autoscaler=quick, pools=Settings(pools={"a": {"min": 1}}).pools)
    assert first.turn()
    first.stop()
    second = scaler(autoscaler=quick, pools=Settings(pools={"a": {"min": 3}}).pools)
    assert second.turn()
    [change, _] = store.elastic.changes("a")
    assert (change.before, change.after) == (1, 3)
    assert change.reason.endswith(f"only 0 of 3 are ready, and others do not come up: {NOBODY_COMES}")
    decision = second.pools.by_name["a"].decision
    assert decision is not None and NOBODY_COMES not in decision.reason
