"""The backend ``external``: a real autoscaler tells KEDA what it wants, and starts nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock import clock
from penstock.autoscaler.backends.external import External
from penstock.autoscaler.daemon import Autoscaler
from penstock.client import Client
from penstock.errors import ConfigError
from penstock.policy.leadership import name_of
from penstock.policy.scaling import Fleet
from penstock.poolsettings import AutoscalerSettings
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import NewSlot
from penstock_cli.fleets import make
from tests.fixtures.client import Echo
from tests.fixtures.keda import Keda
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until
from tests.fixtures.store import lead

GIVEN = {"echo": {"pool": "default", "version": "1", "max_size": 1}}
#: What is promised of a pool at zero: from the submission to KEDA's event, and to the decision, seconds.
EVENT_S, DECISION_S = 0.2, 1.5


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings.load(
        home=settings.home,
        broker_url=settings.broker_url,
        database_url=settings.database_url,
        namespace="ext",
        metrics={"port": 0},
        pools={"default": {"min": 0, "max": 8}},
        autoscaler={"backend": "external", "push": {"port": 0}, "lease_s": 0.5, "every_s": 0.1},
    )


class One:
    """An autoscaler with a store of its own, as a process has it."""

    def __init__(self, settings: Settings, given: dict[str, Any] = GIVEN) -> None:
        self.store = Store.open(settings.database)
        self.autoscaler = Autoscaler(
            settings,
            self.store,
            External(settings, self.store),
            room=lambda pools: dict.fromkeys(pools, 100),
            given=given,
        )
        self.autoscaler.start()

    @property
    def desk(self) -> Any:
        return self.autoscaler.desk

    def ask(self, pool: str = "default") -> tuple[int, dict[str, Any]]:
        with contextlib.closing(http.client.HTTPConnection(self.desk.metrics, timeout=PATIENCE_S)) as connection:
            connection.request("GET", f"/desired/{pool}")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def desired(self) -> int | None:
        return self.ask()[1].get("desired")

    def close(self) -> None:
        self.autoscaler.stop()
        self.store.close()


@pytest.fixture
def one(settings: Settings) -> Iterator[One]:
    one = One(settings)
    yield one
    one.close()


class Listening:
    """KEDA's stream for one pool, with the time at which each event came."""

    def __init__(self, keda: Keda, pool: str) -> None:
        self.events: queue.Queue[tuple[bool, float]] = queue.Queue()
        self._stream = keda.stub.StreamIsActive(keda.ref(pool))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):  # it is cancelled at the end
            for event in self._stream:
                self.events.put((event.result, time.monotonic()))

    def next(self) -> tuple[bool, float]:
        return self.events.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(PATIENCE_S)


def test_at_zero_a_submission_wakes_keda_at_once(settings: Settings) -> None:
    """The event comes by the bell that the submission rings, and the decision right after it.

    With looks that are far apart, so that no look can have done it; the median of five, for machines that are busy.
    """
    pools = [f"p{i}" for i in range(5)]
    seldom = settings.autoscaler.model_copy(update={"every_s": 20.0, "lease_s": 60.0})
    one = One(
        settings.model_copy(update={"autoscaler": seldom, "pools": {pool: settings.pool("default") for pool in pools}}),
        given={pool: {"pool": pool, "version": "1", "max_size": 1} for pool in pools},
    )
    models = [type(pool, (Echo,), {"name": pool}) for pool in pools]
    events_s, decisions_s = [], []
    try:
        with contextlib.closing(Keda(one.desk.push)) as keda, Client(settings, models=models) as client:
            until(lambda: len(one.desk.board.at_zero()) == len(pools))
            one.autoscaler.wake()  # the first look knows of no rates yet
            for pool in pools:
                listening = Listening(keda, pool)
                assert listening.next()[0] is False
                assert one.desk.listens(PATIENCE_S)
                submitted = time.monotonic()
                client.enqueue(pool, 1)
                active, at = listening.next()
                assert active is True
                events_s.append(at - submitted)
                until(lambda pool=pool: one.store.elastic.slots(pool))
                decisions_s.append(time.monotonic() - submitted)
                assert keda.metrics(pool, timeout_s=PATIENCE_S) == 1
                listening.close()
        assert statistics.median(events_s) <= EVENT_S, events_s
        assert statistics.median(decisions_s) <= DECISION_S, decisions_s
        assert {slot.worker for slot in one.store.elastic.slots()} == {None}, "wanted, and nothing was started"
    finally:
        one.close()


def test_a_submission_that_no_bell_tells_of_is_seen_at_the_next_look(
    settings: Settings, one: One, redis_server: RedisServer
) -> None:
    """Programs of stock Celery push to the lists and ring nothing."""
    until(lambda: one.desired() == 0)
    with redis_server.client() as stock:
        stock.lpush("ext.echo.interactive", b"{}")
    until(lambda: one.desired() == 1)


def test_whoever_does_not_lead_tells_the_same(settings: Settings, one: One) -> None:
    until(lambda: one.desired() == 0)
    other = One(settings)
    try:
        until(lambda: other.desired() == 0)
        assert one.desk.board.leads and not other.desk.board.leads
        with Client(settings, models=[Echo]) as client:
            client.enqueue("echo", 1)
        until(lambda: one.desired() == 1 and other.desired() == 1)
    finally:
        other.close()


def test_without_a_leader_nobody_knows(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs, and its row stays as it was: what it wanted is not told for ever."""
    until(lambda: one.desired() == 0)
    going_on = threading.Event()
    monkeypatch.setattr(one.autoscaler, "turn", going_on.wait)
    assert one.ask()[0] == 200, "the decision stands"
    until(lambda: one.ask()[0] == 503)
    assert "desired" not in one.ask()[1]
    monkeypatch.undo()
    going_on.set()
    until(lambda: one.desired() == 0)


def test_before_the_first_decision_of_all_nothing_is_at_zero(settings: Settings) -> None:
    """An autoscaler comes beside workers that run: until it has decided, an HPA is not told to end them."""
    store = Store.open(settings.database)
    try:
        term = lead(store.elastic, "another")
        follower = One(
            settings.model_copy(update={"autoscaler": settings.autoscaler.model_copy(update={"lease_s": 60.0})})
        )
        try:
            for beat in range(3):
                assert store.elastic.beat(term, state={"pools": {"default": {"state": {}}}})
                until(lambda beat=beat: follower.desk._follower._beats.get("autoscaler", ((), 0))[0] == (1, beat + 1))
                assert follower.ask()[0] == 503
            assert store.elastic.beat(term, state={"pools": {"default": {"target": 0}}})
            until(lambda: follower.ask()[0] == 200)
            assert follower.desired() == 0
        finally:
            follower.close()
    finally:
        store.close()


def worker(store: Store, instance: str, *, pool: str = "default", lease_s: float = 60.0) -> None:
    now = clock.now()
    store.register_worker(instance, name=instance, pool=pool, lease_until=now + lease_s, now=now, info={})


def test_workers_that_somebody_starts_are_counted(settings: Settings, one: One) -> None:
    with Client(settings, models=[Echo]) as client:
        client.enqueue("echo", 1)
    until(lambda: one.desired() == 1)
    until(lambda: one.desk.board.standing("default").fleet == Fleet(starting=1))
    worker(one.store, "other@h:1:a", pool="gpu")
    worker(one.store, "w@h:2:a")
    worker(one.store, "w@h:3:a")  # one too many: it is not counted, and not ended
    until(lambda: one.desk.board.standing("default").fleet.ready == 1)
    (slot,) = one.store.elastic.slots()
    assert slot.worker == "w@h:2:a" and slot.ready_at is not None
    one.store.unregister_worker("w@h:2:a")
    until(lambda: [slot.worker for slot in one.store.elastic.slots()] == ["w@h:3:a"])
    one.store.unregister_worker("w@h:3:a")
    until(lambda: one.desk.board.standing("default").fleet == Fleet(starting=1))


def test_a_worker_with_a_wrong_clock_is_counted(settings: Settings, one: One) -> None:
    """Its lease has run out by ours; that it beats is all that counts, and nobody asks for workers in its place."""
    with Client(settings, models=[Echo]) as client:
        client.enqueue("echo", 1)
    until(lambda: one.desired() == 1)
    an_hour_ago = clock.now() - 3600.0
    one.store.register_worker(
        "w@h:2:a", name="w", pool="default", lease_until=an_hour_ago + 60.0, now=an_hour_ago, info={}
    )
    until(lambda: one.desk.board.standing("default").fleet.ready == 1)


def test_one_that_looks_after_some_pools_counts_their_workers(settings: Settings) -> None:
    store = Store.open(settings.database)
    try:
        backend, _ = make(
            settings.model_copy(update={"autoscaler": AutoscalerSettings(backend="external")}),
            store,
            {},
            only=["default"],
        )
        term = lead(store.elastic, name=name_of(["default"]))
        store.elastic.change(term, add=[NewSlot(pool="default")], now=clock.now())
        worker(store, "w@h:2:a")
        backend.realise(store.elastic.slots(), term=term)
        assert [slot.worker for slot in store.elastic.slots()] == ["w@h:2:a"]
    finally:
        store.close()


def test_it_is_an_error_when_nobody_can_ask(settings: Settings) -> None:
    silent = settings.model_copy(
        update={
            "metrics": settings.metrics.model_copy(update={"port": None}),
            "autoscaler": settings.autoscaler.model_copy(
                update={"push": settings.autoscaler.push.model_copy(update={"port": None})}
            ),
        }
    )
    store = Store.open(settings.database)
    try:
        autoscaler = Autoscaler(silent, store, External(silent, store), room=lambda pools: dict.fromkeys(pools, 1))
        with pytest.raises(ConfigError) as caught:
            autoscaler.start()
        assert "external-push" in caught.value.fix
        autoscaler.stop()
    finally:
        store.close()


def measured(*words: str) -> tuple[dict[str, Any], int]:
    """What a benchmark says of few rounds; whether its bars hold is for a machine that does nothing else."""
    program, *options = words
    command = [sys.executable, str(Path(__file__).parents[2] / "benchmarks" / program), *options, "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), done.returncode


def test_a_turn_is_measured() -> None:
    found, _ = measured("elasticlive.py", "--part", "tick")
    assert {row["figure"]: row["value"] for row in found["rows"]}["ready workers"] > 0
    assert all(bar["value"] > 0 for bar in found["bars"])


def test_waking_is_measured() -> None:
    found, status = measured("wake.py")
    assert found["rounds"] == 6 and all(bar["holds"] for bar in found["bars"]) is (status == 0)
    assert list(found)[-1] == "bars" and len(found["bars"]) == 2
    assert 0 < found["event_s"]["median"] <= found["event_s"]["worst"]
    assert 0 < found["decision_s"]["median"] <= found["decision_s"]["worst"]
