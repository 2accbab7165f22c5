"""The engine notices when one of its own threads is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import redis
from celery import Celery

from penstock import clock
from penstock.errors import StoreUnavailable
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.model import Model
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import keys
from penstock_worker.engine import Engine
from penstock_worker.execute.runner import overdue
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.announcer import Announcer
from penstock_worker.report.wire import Wire
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import add, register
from tests.fixtures.worker import wait_for


class Echo(Model):
    name = "echo"

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Slow(Model):
    name = "slow"
    gate = threading.Event()

    def predict(self, batch: list[int]) -> list[int]:
        assert self.gate.wait(PATIENCE_S)
        return batch


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def engine(settings: Settings, store: Store) -> Iterator[Engine]:
    wire = Wire(settings.broker, settings.namespace)
    announcer = Announcer(wire, namespace=settings.namespace, worker="w1", events=None)
    app = Celery(set_as_current=False)
    engine = Engine(
        settings,
        app,
        store,
        {"echo": Echo(), "slow": Slow()},
        worker="w1",
        announcer=announcer,
        wire=wire,
        wake=lambda: None,
    )
    yield engine
    engine.close_intake()
    engine.drain(PATIENCE_S)
    wire.close()


@pytest.fixture
def running(engine: Engine, store: Store) -> Run:
    """A job whose attempt outlives its timeout, on the device until ``Slow.gate`` opens."""
    (id,) = add(store, model="slow", accepted_at=clock.now(), timeout_s=0.01)
    register(store, "w1")
    Slow.gate.clear()
    now, mono = clock.now(), clock.monotonic_s()
    item = Item(id, "slow", Lane.BACKGROUND, input="1", tag=1, source="s", arrived_at=mono, claimed_at=now)
    engine.start()
    engine.batcher.put([item])
    run: Run = wait_for(lambda: engine.runner.current, what="the model to run")
    # Before the first call the timeout counts from the batch's start, and anew from the call's.
    wait_for(lambda: run.call and overdue(run, now_mono=clock.monotonic_s())[0], what="the timeout of the call")
    return run


def test_a_model_that_returns_too_late_settles_nothing(engine: Engine, store: Store, running: Run):
    id = running.live[0].id
    assert engine.check_timeouts()
    Slow.gate.set()
    wait_for(lambda: not engine._device.alive, what="the device thread to give up")
    job = store.get(id)
    assert (job.state, (job.error or {})["code"]) == (JobState.FAILED, "attempt_timeout")
    assert (job.error or {})["retryable"] is False
    assert not running.outcomes
    assert not engine.defective, "the process ends as wedged, not as defective"


def test_the_watchdog_keeps_what_it_took_while_the_database_is_away(
    engine: Engine, store: Store, running: Run, monkeypatch: pytest.MonkeyPatch
):
    def away(*args: Any, **kwargs: Any) -> NoReturn:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", away)
        with pytest.raises(StoreUnavailable):
            engine.check_timeouts()
        Slow.gate.set()
        wait_for(lambda: not engine._device.alive, what="the device thread to give up")
    assert engine.check_timeouts()
    assert store.get(running.live[0].id).state is JobState.FAILED


def test_the_watchdog_leaves_a_run_that_has_returned(
    engine: Engine, store: Store, running: Run, monkeypatch: pytest.MonkeyPatch
):
    seen: list[bool] = []
    conclude = engine._concluder.conclude

    def look(run: Run, *, now: float) -> Any:
        engine.runner.current = run  # as the hub thread may have read it a moment ago
        seen.append(engine.check_timeouts())
        engine.runner.current = None
        return conclude(run, now=now)

    monkeypatch.setattr(engine._concluder, "conclude", look)
    Slow.gate.set()
    job = wait_for(lambda: (job := store.get(running.live[0].id)).state.is_terminal and job, what="the outcome")
    assert (job.state, seen) == (JobState.SUCCEEDED, [False])


def test_what_is_at_hand_is_settled_before_the_process_ends_itself(engine: Engine, store: Store, running: Run):
    """A batch that the settling thread has not committed yet, while the next one is wedged."""
    (id,) = add(store, model="slow")
    attempt = store.claim([id], worker="w1", now=clock.now()).claimed[id].attempt
    item = Item(id, "slow", Lane.BACKGROUND, input="1", tag=2, source="s", arrived_at=0.0, claimed_at=0.0)
    earlier = Run(Batch(Slow, [item], "full"), live=[item])
    earlier.outcomes = [Outcome(id=id, attempt=attempt, state=JobState.SUCCEEDED, output="1")]
    with engine.settler._committing:  # the database is slow
        engine.settler._pending.append(earlier)
        with engine.settler._changed:
            engine.settler._changed.notify_all()
    assert engine.check_timeouts()
    engine.close_intake()
    engine.settle_pending(10)
    assert store.get(id).state is JobState.SUCCEEDED
    Slow.gate.set()


def test_a_stopped_engine_is_not_defective(engine: Engine):
    engine.start()
    assert not engine.defective
    engine.close_intake()
    assert engine.drain(PATIENCE_S)
    assert not engine.defective


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("part", ["batcher.take", "batcher.expired", "settler._commit"])
def test_a_thread_that_nobody_stopped_is_a_defect(engine: Engine, part: str, monkeypatch: pytest.MonkeyPatch):
    """As a worker without it would hold its claims for as long as it lives."""

    def die(*args: Any) -> NoReturn:
        raise GeneratorExit

    if part.startswith("batcher."):
        monkeypatch.setattr(engine.batcher, part.removeprefix("batcher."), die)
        engine.start()
    else:
        monkeypatch.setattr(engine.settler, "_commit", die)
        engine.start()
        engine.settler._pending.append(None)  # type: ignore[arg-type]
        with engine.settler._changed:
            engine.settler._changed.notify_all()
    wait_for(lambda: engine.defective, what="the engine to notice")


def test_the_start_of_a_batch_that_was_to_be_short_is_told_when_it_is_not(
    engine: Engine, store: Store, broker: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a short one does not wait for the broker before the model is called."""
    Slow.gate.clear()
    (id,) = add(store, model="slow", accepted_at=clock.now())
    register(store, "w1")
    monkeypatch.setattr(engine.batcher, "busy_s", lambda: 0.01)
    with broker.pubsub(ignore_subscribe_messages=True) as events:
        events.subscribe(keys.events(settings.namespace))
        events.get_message(timeout=PATIENCE_S)
        mono, now = clock.monotonic_s(), clock.now()
        engine.start()
        engine.batcher.put(
            [Item(id, "slow", Lane.BACKGROUND, input="1", tag=1, source="s", arrived_at=mono, claimed_at=now)]
        )
        wait_for(lambda: engine.runner.current and engine.runner.current.call, what="the model to run")
        assert events.get_message(timeout=0) is None
        assert not engine.check_timeouts()
        told = wait_for(lambda: events.get_message(timeout=0), what="the news")
    assert json.loads(told["data"])["state"] == "running"
    Slow.gate.set()
