"""The dispatcher against a real Redis and both databases: no accepted job is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from structlog.testing import capture_logs

import penstock_migrations
from penstock import clock
from penstock.dispatch import reconciler
from penstock.dispatch.daemon import Dispatcher
from penstock.errors import JobNotFound, StoreUnavailable
from penstock.job import JobState, NewJob, Outcome, new_id
from penstock.lane import queue_name
from penstock.policy.fairness import Terms
from penstock.settings import Settings, TenantSettings
from penstock.store import Store
from penstock.store.elastic import Change, Minute
from penstock.transport import inspect, keys
from penstock.transport.claims import Claims
from penstock.transport.message import canvas_of, id_of
from penstock.transport.publisher import Publisher
from penstock.transport.tenants import configured
from penstock.webhooks import Signer, new_key
from penstock.webhooks.listener import Listener, Received
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import wait_for

KEY = new_key()


def hurried(broker_url: str, database_url: str, namespace: str, home: Path, **changes: Any) -> Settings:
    """A dispatcher in a hurry."""
    values: dict[str, Any] = {
        "dispatcher": {"poll_s": 0.05, "reconcile_every_s": 0.2},
        "lease": {"ttl_s": 30.0, "heartbeat_s": 0.05},
        "retention": {"prune_every_s": 0.2},
        "retry": {"losses": 1, "kills": 9},
        "webhook": {"secrets": [KEY], "allow_private": True},
    }
    return Settings(
        home=home, namespace=namespace, broker_url=broker_url, database_url=database_url, **values | changes
    )


@pytest.fixture
def settings(broker_url: str, database_url: str, namespace: str, tmp_path: Path) -> Settings:
    return hurried(broker_url, database_url, namespace, tmp_path)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def dispatch(settings: Settings) -> Iterator[Callable[..., Dispatcher]]:
    """Starts dispatchers, and stops them at the end."""
    running: list[Dispatcher] = []

    def start(**changes: Any) -> Dispatcher:
        dispatcher = Dispatcher(settings.model_copy(update=changes))
        dispatcher.start()
        running.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in running:
        dispatcher.stop()


def make_job(**changes: Any) -> NewJob:
    now = clock.now()
    fields: dict[str, Any] = {
        "id": new_id(),
        "model": "echo",
        "version": "1",
        "input": '"x"',
        "lane": "interactive",
        "accepted_at": now - 10,
        "available_at": now - 10,
    }
    return NewJob(**fields | changes)


class Broker:
    """What the queue of the model `echo` holds."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.queue = queue_name(namespace, "echo", "interactive")

    def ids(self) -> list[str]:
        """The ids of the ready messages, in the order in which they will be served."""
        raw: Any = self.client.lrange(self.queue, 0, -1)
        return [str(id_of(message)) for message in reversed(raw)]


@pytest.fixture
def queue(broker: redis.Redis, namespace: str) -> Broker:
    return Broker(broker, namespace)


@pytest.fixture
def heard(broker: redis.Redis, namespace: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Everything that client `c1` was told."""
    listener: Any = broker.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.reply(namespace, "c1"))
    listener.get_message(timeout=PATIENCE_S)
    records: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        while (message := listener.get_message(timeout=0.01)) is not None:
            records.extend(msgspec.json.decode(message["data"]))
        return records

    yield read
    listener.close()


def state_of(store: Store, id: str) -> JobState:
    return store.get(id).state


def states(store: Store, jobs: list[NewJob]) -> set[JobState]:
    return {job.state for job in store.get_many([job.id for job in jobs]).values()}


def run_on(store: Store, worker: str, ids: list[str], *, lease_s: float = 60.0) -> dict[str, int]:
    """Claims the jobs for a worker; their attempts."""
    now = clock.now()
    store.register_worker(worker, name=worker, pool="p", lease_until=now + lease_s, now=now, info={})
    claimed = store.claim(ids, worker=worker, now=now).claimed
    return {id: job.attempt for id, job in claimed.items()}


# Relay ----------------------------------------------------------------------------------------------------------


def test_what_a_producer_could_not_publish_is_relayed(
    store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    jobs = [make_job(available_at=clock.now() - 100 + number) for number in range(50)]
    store.insert(jobs, publish_lease_s=0.0)
    dispatch()
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    assert queue.ids() == [job.id for job in jobs]


def test_a_job_of_which_no_message_can_be_made_fails_alone(
    store: Store, queue: Broker, dispatch: Callable[..., Dispatcher], heard: Callable[[], list[dict[str, Any]]]
) -> None:
    """A far deadline is none; a canvas that another version wrote, say, cannot be sent at all."""
    bad = [make_job(canvas='{"not": "ours"}', reply_to="c1"), make_job(canvas="[")]
    good = [make_job(deadline_at=1e12), make_job()]
    store.insert([bad[0], good[0], bad[1], good[1]])
    dispatch()
    wait_for(lambda: states(store, good) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    wait_for(lambda: states(store, bad) == {JobState.FAILED}, timeout_s=PATIENCE_S)
    assert sorted(queue.ids()) == sorted(job.id for job in good)
    error = store.get(bad[0].id).error
    assert error is not None
    assert error["code"] == "invalid_input"
    told: list[dict[str, Any]] = []
    wait_for(lambda: told.extend(heard()) or told, timeout_s=PATIENCE_S)
    assert [(record["id"], record["state"]) for record in told] == [(bad[0].id, "failed")]


def test_a_fresh_job_belongs_to_its_producer(store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]) -> None:
    """For as long as its lease lasts only what nobody else publishes is relayed."""
    now = clock.now()
    fresh = make_job(accepted_at=now, available_at=now)
    delayed = make_job(accepted_at=now, available_at=now + 0.2)
    abandoned = make_job()
    store.insert([fresh], publish_lease_s=60.0)
    # First, so that its lease ends first, however long the inserts take.
    store.insert([abandoned], publish_lease_s=0.1)
    store.insert([delayed], publish_lease_s=0.1)
    dispatch()
    wait_for(lambda: states(store, [delayed, abandoned]) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    assert state_of(store, fresh.id) is JobState.ACCEPTED
    assert queue.ids() == [abandoned.id, delayed.id]


def test_a_delayed_job_is_published_on_time_and_not_before(
    settings: Settings, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    """The relay sleeps until the next due time: it is punctual although it polls once a minute."""
    dispatch(dispatcher=settings.dispatcher.model_copy(update={"poll_s": 60.0}))
    # The first look may come before or after the insert; a second dispatcher's certainly comes after.
    job = make_job(accepted_at=clock.now(), available_at=clock.now() + 1.0)
    store.insert([job], publish_lease_s=0.0)
    dispatch(dispatcher=settings.dispatcher.model_copy(update={"poll_s": 60.0}))
    wait_for(lambda: queue.ids(), timeout_s=PATIENCE_S)
    # How late it may be is for a busy machine to say; the next look would come after a minute.
    assert 0 <= clock.now() - job.available_at < 10.0


def test_several_dispatchers_publish_each_job_once(
    store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    jobs = [make_job() for _ in range(3000)]
    store.insert(jobs, publish_lease_s=0.0)
    for _ in range(3):
        dispatch()
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    assert sorted(queue.ids()) == sorted(job.id for job in jobs)


def test_a_relay_that_dies_between_publish_and_record_leaves_only_a_duplicate(
    settings: Settings, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    job = make_job()
    store.insert([job], publish_lease_s=0.0)
    taken = store.take_due(now=clock.now(), limit=10, lease_s=1.0)
    publisher = Publisher(settings.broker, settings.namespace)
    publisher.publish(taken)  # and then it died
    publisher.close()
    dispatch()
    wait_for(lambda: state_of(store, job.id) is JobState.QUEUED, timeout_s=PATIENCE_S)
    assert queue.ids() == [job.id, job.id]
    assert list(run_on(store, "w1", [job.id, job.id])) == [job.id]
    assert run_on(store, "w2", [job.id]) == {}


def test_a_retry_comes_back_after_its_back_off(
    store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    job = make_job()
    store.insert([job], publish_lease_s=0.0)
    dispatch()
    wait_for(queue.ids, timeout_s=PATIENCE_S)
    attempts = run_on(store, "w1", [job.id])
    again_at = clock.now() + 0.5
    retry = Outcome(id=job.id, attempt=attempts[job.id], state=JobState.ACCEPTED, available_at=again_at, failures=1)
    store.settle([retry], worker="w1", now=clock.now())
    wait_for(lambda: len(queue.ids()) == 2, timeout_s=PATIENCE_S)
    assert clock.now() >= again_at


# Reconciler -----------------------------------------------------------------------------------------------------


def test_jobs_of_a_dead_worker_are_rescued(store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]) -> None:
    job, other = make_job(), make_job()
    store.insert([job, other], publish_lease_s=0.0)
    run_on(store, "dead", [job.id], lease_s=0.2)
    run_on(store, "alive", [other.id])
    dispatch()
    wait_for(lambda: state_of(store, job.id) is JobState.QUEUED, timeout_s=PATIENCE_S)
    assert queue.ids() == [job.id]
    assert store.get(job.id).losses == 1
    assert state_of(store, other.id) is JobState.RUNNING


def test_a_job_that_costs_too_many_workers_fails_and_says_so(
    store: Store, dispatch: Callable[..., Dispatcher], heard: Callable[[], list[dict[str, Any]]]
) -> None:
    received: list[Received] = []
    with Listener(Signer([KEY]), received.append) as listener:
        job = make_job(reply_to="c1", webhook=listener.url)
        store.insert([job], publish_lease_s=0.0)
        dispatch()
        for worker in ("dead1", "dead2"):
            wait_for(lambda name=worker: run_on(store, name, [job.id], lease_s=0.1), timeout_s=PATIENCE_S)
            wait_for(lambda: state_of(store, job.id) is not JobState.RUNNING, timeout_s=PATIENCE_S)
        failed = store.get(job.id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert failed.error["code"] == "worker_lost"
        wait_for(lambda: received, timeout_s=PATIENCE_S)
    assert received[0].event["type"] == "job.failed"
    wait_for(heard, timeout_s=PATIENCE_S)
    assert heard()[0]["state"] == "failed"
    assert heard()[0]["error"]["code"] == "worker_lost"


def test_messages_of_a_dead_consumer_are_restored(
    broker: redis.Redis, settings: Settings, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    job = make_job()
    store.insert([job], publish_lease_s=0.0)
    dispatch()
    wait_for(queue.ids, timeout_s=PATIENCE_S)
    claims = Claims(broker, settings.namespace, lease_s=0.2)
    assert claims.claim({queue.queue: 10})
    wait_for(queue.ids, timeout_s=PATIENCE_S)
    assert queue.ids() == [job.id]


def test_overdue_jobs_expire_and_are_told(
    store: Store, dispatch: Callable[..., Dispatcher], heard: Callable[[], list[dict[str, Any]]]
) -> None:
    soon = make_job(reply_to="c1", deadline_at=clock.now() + 0.3, available_at=clock.now() + 60)
    store.insert([soon], publish_lease_s=0.0)
    dispatch()
    wait_for(lambda: state_of(store, soon.id) is JobState.EXPIRED, timeout_s=PATIENCE_S)
    wait_for(heard, timeout_s=PATIENCE_S)
    assert [(record["id"], record["state"]) for record in heard()] == [(soon.id, "expired")]


def test_a_wiped_broker_gets_everything_back(
    redis_server: RedisServer, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    jobs = [make_job() for _ in range(2500)]
    store.insert(jobs, publish_lease_s=0.0)
    dispatch()
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    redis_server.flushall()
    wait_for(lambda: len(queue.ids()) >= 2500, timeout_s=PATIENCE_S)
    assert set(queue.ids()) == {job.id for job in jobs}


def test_a_wiped_broker_learns_the_tenants_terms_again(
    redis_server: RedisServer,
    broker: redis.Redis,
    settings: Settings,
    store: Store,
    namespace: str,
    dispatch: Callable[..., Dispatcher],
) -> None:
    """Those of the settings and those set by hand, which win; and messages go back to their tenants' lists."""
    store.set_tenant("acme", Terms(cap=2), now=clock.now())
    jobs = [make_job(tenant="acme") for _ in range(5)]
    store.insert(jobs, publish_lease_s=0.0)
    dispatch(tenants={"acme": TenantSettings(weight=9.0), "other": TenantSettings(weight=3.0)})
    expected = {"acme": Terms(1.0, 2), "other": Terms(3.0)}
    wait_for(lambda: configured(broker, namespace) == expected, timeout_s=PATIENCE_S)
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    redis_server.flushall()
    wait_for(lambda: configured(broker, namespace) == expected, timeout_s=PATIENCE_S)
    line = queue_name(namespace, "echo", "interactive")
    held = {job.id for job in jobs}
    wait_for(lambda: inspect.held_ids(broker, namespace, [line]) == held, timeout_s=PATIENCE_S)
    assert set(inspect.tenants(broker, namespace, [line])[line]) == {"acme"}
    assert len(Claims(broker, namespace).claim({line: 9})[line]) == 2
    store.set_tenant("acme", None, now=clock.now())
    wait_for(lambda: configured(broker, namespace)["acme"] == Terms(9.0), timeout_s=PATIENCE_S)


def test_a_broker_that_lost_some_messages_gets_those_back(
    store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    """Nothing marks the loss but the count."""
    jobs = [make_job() for _ in range(20)]
    store.insert(jobs, publish_lease_s=0.0)
    dispatch()
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    kept = queue.ids()[5:]
    queue.client.ltrim(queue.queue, 0, 14)
    wait_for(lambda: len(queue.ids()) == 20, timeout_s=PATIENCE_S)
    assert queue.ids()[:15] == kept
    assert sorted(queue.ids()) == sorted(job.id for job in jobs)


def test_claimed_messages_are_not_taken_for_lost(
    settings: Settings, broker: redis.Redis, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    """Neither by count nor by a new dispatcher's comparison."""
    jobs = [make_job() for _ in range(10)]
    store.insert(jobs, publish_lease_s=0.0)
    dispatch()
    wait_for(lambda: states(store, jobs) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    claims = Claims(broker, settings.namespace, lease_s=60)
    claims.claim({queue.queue: 10})
    marker = make_job(deadline_at=clock.now() - 1)
    dispatch()
    for _ in range(5):  # a few turns of both: each expires one more job
        marker = make_job(deadline_at=clock.now() - 1, available_at=clock.now() + 60)
        store.insert([marker], publish_lease_s=0.0)
        wait_for(lambda id=marker.id: state_of(store, id) is JobState.EXPIRED, timeout_s=PATIENCE_S)
    assert queue.ids() == []
    assert inspect.depths(broker, settings.namespace, [queue.queue])[queue.queue].claimed == 10


def test_old_jobs_are_pruned(settings: Settings, store: Store, dispatch: Callable[..., Dispatcher]) -> None:
    old, open_ = make_job(tags={"run": "1"}), make_job(available_at=clock.now() + 3600)
    store.insert([old, open_], publish_lease_s=0.0)
    store.cancel(old.id, now=clock.now() - 100)
    dispatch(retention=settings.retention.model_copy(update={"jobs_s": 50.0}))

    def gone() -> bool:
        try:
            store.get(old.id)
        except JobNotFound:
            return True
        return False

    wait_for(gone, timeout_s=PATIENCE_S)
    assert state_of(store, open_.id) is JobState.ACCEPTED


def test_old_records_of_scaling_are_pruned(
    settings: Settings, store: Store, dispatch: Callable[..., Dispatcher]
) -> None:
    now = clock.now()
    old, kept = (Minute(pool="gpu", at=now - age_s, epoch=1, seconds=60.0) for age_s in (100, 10))
    store.elastic.record([old, kept])
    changes = [Change(pool="gpu", at=m.at, epoch=1, before=0, after=1, code="steady", reason="") for m in (old, kept)]
    store.elastic.changed(*changes)
    dispatch(retention=settings.retention.model_copy(update={"scaling_s": 50.0}))
    wait_for(lambda: store.elastic.changes() == changes[1:], timeout_s=PATIENCE_S)
    wait_for(lambda: store.elastic.history("gpu", since=0.0, until=now) == [kept], timeout_s=PATIENCE_S)


def test_an_unfinished_canvas_member_is_sent_to_a_worker_again(
    settings: Settings, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    """Settled, but the worker died before its callbacks were sent: once, not at every turn."""
    id = new_id()
    embed = {"callbacks": [{"task": "t", "args": [], "kwargs": {}, "options": {}}], "chord": None}
    canvas = canvas_of({"id": id, "task": f"{settings.namespace}.echo"}, [["x"], {}, embed], {"correlation_id": id})
    job = make_job(id=id, canvas=canvas)
    store.insert([job], publish_lease_s=0.0)
    attempts = run_on(store, "w1", [id])
    done = Outcome(id=id, attempt=attempts[id], state=JobState.SUCCEEDED, output="1")
    store.settle([done], worker="w1", now=clock.now() - 3600)
    dispatch()
    wait_for(queue.ids, timeout_s=PATIENCE_S)
    for _ in range(3):
        marker = make_job(deadline_at=clock.now() - 1, available_at=clock.now() + 60)
        store.insert([marker], publish_lease_s=0.0)
        wait_for(lambda id=marker.id: state_of(store, id) is JobState.EXPIRED, timeout_s=PATIENCE_S)
    assert queue.ids() == [id]


def test_stuck_canvas_members_do_not_hide_the_others(
    settings: Settings,
    store: Store,
    queue: Broker,
    dispatch: Callable[..., Dispatcher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than one look returns, of a model that no worker serves; the one behind them gets its turn."""
    monkeypatch.setattr(reconciler, "CHUNK", 3)
    stuck = [make_job(model="gone", canvas='{"headers":{},"properties":{},"embed":null}') for _ in range(7)]
    last = make_job(canvas='{"headers":{"id":"last"},"properties":{},"embed":null}')
    store.insert([*stuck, last])
    for age, jobs in ((3600, stuck), (1800, [last])):
        for id, attempt in run_on(store, "w1", [job.id for job in jobs]).items():
            done = Outcome(id=id, attempt=attempt, state=JobState.SUCCEEDED, output="1")
            store.settle([done], worker="w1", now=clock.now() - age)
    dispatch()
    wait_for(queue.ids, timeout_s=PATIENCE_S)
    assert queue.ids() == ["last"]


# Outages --------------------------------------------------------------------------------------------------------


def test_with_the_broker_away_sql_work_goes_on(
    redis_server: RedisServer, store: Store, queue: Broker, dispatch: Callable[..., Dispatcher]
) -> None:
    """And when it is back, what was accepted meanwhile is published."""
    redis_server.kill()
    try:
        waiting = make_job()
        overdue = make_job(deadline_at=clock.now() - 1)
        lost = make_job()
        store.insert([waiting, overdue, lost], publish_lease_s=0.0)
        run_on(store, "dead", [lost.id], lease_s=0.1)
        dispatch()
        wait_for(lambda: state_of(store, overdue.id) is JobState.EXPIRED, timeout_s=PATIENCE_S)
        wait_for(lambda: state_of(store, lost.id) is JobState.ACCEPTED, timeout_s=PATIENCE_S)
        assert state_of(store, waiting.id) is JobState.ACCEPTED
    finally:
        redis_server.start()
    wait_for(lambda: states(store, [waiting, lost]) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
    assert {waiting.id, lost.id} <= set(queue.ids())


def test_an_outage_is_logged_once(
    redis_server: RedisServer,
    dispatch: Callable[..., Dispatcher],
) -> None:
    redis_server.kill()
    try:
        with capture_logs() as entries:
            dispatch()
            wait_for(lambda: len([e for e in entries if e["action"] == "broker_down"]) >= 1, timeout_s=PATIENCE_S)
            threading.Event().wait(1.0)  # twenty turns
    finally:
        redis_server.start()
    downs = [entry["service"] for entry in entries if entry["action"] == "broker_down"]
    assert (
        downs.count("reconciler") == 1
        and len(downs) == len(set(downs))
        and set(downs) <= {"reconciler", "relay", "returns"}
    )


def test_stop_is_quick_and_repeatable(dispatch: Callable[..., Dispatcher]) -> None:
    dispatcher = dispatch()
    begin = clock.monotonic_s()
    dispatcher.stop()
    dispatcher.stop()
    assert clock.monotonic_s() - begin < 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("penstock-re")]


def test_run_returns_when_stopped(settings: Settings) -> None:
    dispatcher = Dispatcher(settings)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    dispatcher.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_without_a_signing_key_everything_else_works(
    settings: Settings, store: Store, dispatch: Callable[..., Dispatcher]
) -> None:
    """Deliveries wait for a dispatcher that has one."""
    job = make_job(webhook="https://example.com/", deadline_at=clock.now() - 1)
    store.insert([job], publish_lease_s=0.0)
    dispatch(webhook=settings.webhook.model_copy(update={"secrets": []}))
    wait_for(lambda: state_of(store, job.id) is JobState.EXPIRED, timeout_s=PATIENCE_S)
    (delivery,) = store.list_deliveries(limit=10)
    assert (delivery.state, delivery.attempts) == ("pending", 0)


def test_with_the_database_away_it_waits_and_recovers(
    postgres_server: PostgresServer, postgres_url: str, broker_url: str, namespace: str, tmp_path: Path
) -> None:
    """Nobody is declared dead just because nobody could renew a lease meanwhile."""
    settings = hurried(broker_url, postgres_url, namespace, tmp_path, lease={"ttl_s": 30.0, "heartbeat_s": 5.0})
    store = Store.open(postgres_url)
    dispatcher = Dispatcher(settings)
    dispatcher.start()
    try:
        before, running = make_job(), make_job()
        store.insert([before, running], publish_lease_s=0.0)
        wait_for(lambda: states(store, [before, running]) == {JobState.QUEUED}, timeout_s=PATIENCE_S)
        run_on(store, "w1", [running.id], lease_s=2.0)  # not over before the database is away
        postgres_server.stop()
        postgres_server.start()
        after = make_job(available_at=clock.now() + 2.5)  # due when the worker's lease has passed
        wait_for(lambda: accepts(store, after), timeout_s=PATIENCE_S)
        wait_for(lambda: state_of(store, after.id) is JobState.QUEUED, timeout_s=PATIENCE_S)
        assert state_of(store, running.id) is JobState.RUNNING
        assert store.heartbeat("w1", lease_until=clock.now() + 60, now=clock.now())
    finally:
        dispatcher.stop()
        store.close()


def accepts(store: Store, job: NewJob) -> bool:
    """Whether the database answered; inserting twice is harmless for the test."""
    try:
        store.insert([job], publish_lease_s=0.0)
    except StoreUnavailable:
        return False
    return True


def test_a_database_that_is_not_migrated_yet_is_waited_for(
    empty_database_url: str, broker_url: str, namespace: str, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(hurried(broker_url, empty_database_url, namespace, tmp_path))
    with capture_logs() as entries:
        dispatcher.start()
        try:
            wait_for(lambda: [e for e in entries if e["action"] == "database_down"], timeout_s=PATIENCE_S)
            penstock_migrations.upgrade(empty_database_url)
            store = Store.open(empty_database_url)
            job = make_job()
            store.insert([job], publish_lease_s=0.0)
            wait_for(lambda: state_of(store, job.id) is JobState.QUEUED, timeout_s=PATIENCE_S)
            store.close()
        finally:
            dispatcher.stop()
    # The migration's own lock may be noticed as well.
    fixes = [entry["fix"] for entry in entries if entry["action"] == "database_down"]
    assert any(fix.startswith("penstock db upgrade") for fix in fixes), fixes
