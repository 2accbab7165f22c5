"""The client on a real broker and both databases: submit, wait, cancel, retry, stream."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pydantic
import pytest
import redis

import penstock
from penstock import Client, JobState, Model
from penstock.client import push as push_module
from penstock.errors import (
    ConfigError,
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobNotFound,
    NotSerializable,
    PenstockError,
    ResultTimeout,
    TooLarge,
    UnknownModel,
)
from penstock.lane import queue_name
from penstock.settings import Settings
from penstock.store import Store
from penstock.testing import assert_settled
from tests.fixtures.client import MODELS, MiniWorker, Upper, until
from tests.fixtures.patience import PATIENCE_S

# Submitting -------------------------------------------------------------------------------------------------------


def test_a_job_goes_round(client: Client, running: MiniWorker) -> None:
    job = client.enqueue("upper", "hello", tags={"run": "7"}, tenant="acme", priority=5, timeout=30)
    assert job.result(PATIENCE_S) == "HELLO"
    assert job.status == "succeeded"
    assert job.output == "HELLO"
    assert job.error is None
    stored = assert_settled(job)
    assert (stored.model, stored.version, stored.tenant, stored.priority) == ("upper", "3", "acme", 5)
    assert (stored.lane, stored.timeout_s, stored.tags, stored.input) == ("interactive", 30.0, {"run": "7"}, "hello")


def test_run_and_lanes(client: Client, running: MiniWorker) -> None:
    assert client.run("echo", {"a": [1, None, "ü"]}, result_timeout=PATIENCE_S) == {"a": [1, None, "ü"]}
    assert client.run(Upper, "x", result_timeout=PATIENCE_S) == "X"
    assert client.enqueue("echo", 1).job.lane == "interactive"
    (job,) = client.enqueue_many("echo", [1])
    assert job.job.lane == "background"
    assert client.enqueue("echo", 1, lane="background").job.lane == "background"


def test_a_submitted_job_is_at_the_broker_and_marked(
    client: Client, client_settings: Settings, broker: redis.Redis
) -> None:
    job = client.enqueue("echo", 1)
    queue = queue_name(client_settings.namespace, "echo", "interactive")
    assert broker.llen(queue) == 1
    until(lambda: job.refresh().state is JobState.QUEUED)
    assert job.job.ledger.queued_at is not None
    assert job.job.ledger.queued_at >= job.job.ledger.accepted_at


def test_closing_records_what_was_published(client: Client, client_settings: Settings) -> None:
    ids = [job.id for job in client.enqueue_many("echo", range(2500))]
    client.close()
    client.close()
    store = Store.open(client_settings.database)
    assert {job.state for job in store.get_many(ids).values()} == {JobState.QUEUED}
    store.close()
    with pytest.raises(PenstockError, match="closed"):
        client.enqueue("echo", 1)


def test_a_delayed_job_is_not_published(client: Client, client_settings: Settings, broker: redis.Redis) -> None:
    job = client.enqueue("echo", 1, delay=3600)
    assert broker.llen(queue_name(client_settings.namespace, "echo", "interactive")) == 0
    assert job.job.state is JobState.ACCEPTED
    assert job.job.available_at - job.job.ledger.accepted_at == pytest.approx(3600, abs=1)


def test_a_committed_job_is_nobodys_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong after the commit is the relay's to put right."""

    def fail(*args: Any) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr("penstock.transport.publisher.ring", fail)
    job = client.enqueue("echo", 1)
    assert client.get(job.id).status == "accepted"
    monkeypatch.setattr("penstock.transport.publisher.encode", fail)
    jobs = client.enqueue_many("echo", [1, 2])
    assert {client.get(job.id).status for job in jobs} == {"accepted"}


def test_a_deadline_is_stored_as_a_point_in_time(client: Client) -> None:
    job = client.enqueue("echo", 1, deadline=2.0).job
    assert job.deadline_at == pytest.approx(job.ledger.accepted_at + 2.0)
    at = datetime.now(UTC) + timedelta(hours=1)
    assert client.enqueue("echo", 1, deadline=at).job.deadline_at == pytest.approx(at.timestamp())
    assert client.enqueue("echo", 1, deadline=-1.0).job.deadline_at is not None


def test_values_that_are_not_plain_json(client: Client, running: MiniWorker) -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        at: datetime | None = None

    class Box(pydantic.BaseModel):
        side: float = 1.0

    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert client.run("echo", Point(1), result_timeout=PATIENCE_S) == {"x": 1, "at": None}
    with pytest.raises(NotSerializable, match=r"datetime\.datetime at \.at"):
        client.enqueue("echo", Point(1, at))
    assert client.run("echo", Box(), result_timeout=PATIENCE_S) == {"side": 1.0}
    assert client.run("echo", np.arange(3), result_timeout=PATIENCE_S) == [0, 1, 2]
    assert client.run("echo", {"v": np.float32(0.5), "m": np.eye(2)}, result_timeout=PATIENCE_S) == {
        "v": 0.5,
        "m": [[1.0, 0.0], [0.0, 1.0]],
    }
    assert client.run("echo", "nul \x00 and 🚀", result_timeout=PATIENCE_S) == "nul \x00 and 🚀"


def test_what_cannot_be_a_job_is_refused_and_nothing_is_stored(client: Client) -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    refusals: list[tuple[type[PenstockError], Any, Any]] = [
        (UnknownModel, "uper", "x"),
        (NotSerializable, "echo", [float("nan"), float("inf")]),
        (InvalidInput, "upper", 5),
        (InvalidInput, "upper", {"text": "x"}),
        (NotSerializable, "echo", object()),
        (NotSerializable, "echo", {"f": lambda: None}),
        (NotSerializable, "echo", cyclic),
        (NotSerializable, "echo", "\ud800"),
        (TooLarge, "echo", "x" * (8 * 2**20)),
        (InvalidInput, 5, "x"),
    ]
    for error, model, value in refusals:
        with pytest.raises(error) as caught:
            client.enqueue(model, value)
        assert caught.value.fix, error
    with pytest.raises(UnknownModel, match="did you mean 'upper'"):
        client.enqueue("uper", "x")
    with pytest.raises(InvalidInput, match="input 1: "):
        client.enqueue_many("upper", ["a", 5])
    with pytest.raises(InvalidInput, match="lane"):
        client.enqueue("upper", "a", lane="fast")
    assert client.list() == []


def test_a_model_that_only_its_workers_know(client_settings: Settings, mini: MiniWorker) -> None:
    with Client(client_settings) as client:
        with pytest.raises(UnknownModel) as caught:
            client.enqueue("remote", 1)
        assert "PENSTOCK_MODELS" in caught.value.fix
    now = 1e12
    mini.store.register_worker(
        "w2", name="w2", pool="gpu", lease_until=now, now=now, info={"models": {"remote": {"version": "9"}}}
    )
    with Client(client_settings) as client:
        job = client.enqueue("remote", {"anything": 1})
        assert (job.job.model, job.job.version) == ("remote", ""), "nothing has run it"
        assert client.enqueue("remote@9", 1).job.asked_version == "9"
        for odd in ("remote@", "remote@a\nb"):
            with pytest.raises(InvalidInput, match="no version of model"):
                client.enqueue(odd, 1)
        with pytest.raises(UnknownModel, match="remot"):
            client.enqueue("remot", 1)
    # Its workers are gone, and the model is still known: its jobs wait for them.
    mini.store.unregister_worker("w2")
    with Client(client_settings) as client:
        assert client.enqueue("remote", 2).job.model == "remote"


# Idempotency ------------------------------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_job(client: Client, running: MiniWorker) -> None:
    first = client.enqueue("upper", "a", idempotency_key="k", tenant="t")
    again = client.enqueue("upper", "a", idempotency_key="k", tenant="t")
    assert again == first
    assert again.result(PATIENCE_S) == first.result(PATIENCE_S) == "A"
    assert client.enqueue("upper", "a", idempotency_key="k", tenant="t").result(PATIENCE_S) == "A"
    assert client.enqueue("upper", "a", idempotency_key="k", tenant="other") != first
    with pytest.raises(IdempotencyConflict):
        client.enqueue("upper", "b", idempotency_key="k", tenant="t")


def test_a_bulk_submission_can_be_repeated(client: Client, running: MiniWorker) -> None:
    first = client.enqueue_many("upper", ["a", "a", "b"], idempotency_key="k")
    assert len(set(first)) == 3
    again = client.enqueue_many("upper", ["a", "a", "b"], idempotency_key="k")
    assert again == first
    assert [job.result(PATIENCE_S) for job in again] == ["A", "A", "B"]


def test_threads_with_one_key_make_one_job(client: Client, mini: MiniWorker) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: client.enqueue("echo", 1, idempotency_key="k"), range(32)))
    assert len({job.id for job in jobs}) == 1
    assert sum(job.mark is not None or job.reply_to is not None for job in jobs) == 1
    assert mini.step() == 1


def test_one_callers_conflict_is_not_the_others(client: Client) -> None:
    client.enqueue("echo", 0, idempotency_key="k")

    def submit(n: int) -> object:
        try:
            return client.enqueue("echo", n, idempotency_key="k" if n % 4 == 0 else None).id
        except IdempotencyConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(1, 41)))
    assert sum(answer is None for answer in answers) == 10


# Waiting ----------------------------------------------------------------------------------------------------------


def test_concurrent_submissions_share_transactions(client: Client, running: MiniWorker) -> None:
    store = client._runtime().store
    transactions: list[int] = []
    insert_groups = store.insert_groups

    def counted(groups: Any, **options: float) -> Any:
        transactions.append(len(groups))
        return insert_groups(groups, **options)

    store.insert_groups = counted  # type: ignore[method-assign]
    barrier = threading.Barrier(16)

    def submit(n: int) -> list[Any]:
        barrier.wait(PATIENCE_S)
        return [client.run("echo", (n, i), result_timeout=PATIENCE_S) for i in range(10)]

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(submit, range(16)))
    assert results == [[[n, i] for i in range(10)] for n in range(16)]
    assert sum(transactions) == 160
    assert len(transactions) < 160


def test_results_are_pushed_and_sql_is_not_asked(client: Client, running: MiniWorker) -> None:
    client.run("echo", 0, result_timeout=PATIENCE_S)
    store = client._runtime().store
    reads: list[Any] = []
    store.get_many = lambda ids: reads.append(ids)  # type: ignore[assignment,method-assign,return-value]
    assert [client.run("echo", n, result_timeout=PATIENCE_S) for n in range(20)] == list(range(20))
    assert reads == []


def test_results_come_though_nobody_tells(client: Client, running: MiniWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.client import _flow

    monkeypatch.setattr(_flow, "SAFETY_S", 0.05)
    running.tells = False
    assert client.run("echo", 1, result_timeout=PATIENCE_S) == 1


def test_a_long_output_is_read_from_sql(client: Client, running: MiniWorker) -> None:
    text = "x" * 40_000
    assert client.run("echo", text, result_timeout=PATIENCE_S) == text


def test_failures_are_raised_and_kept(client: Client, running: MiniWorker) -> None:
    job = client.enqueue("fail", 1)
    with pytest.raises(JobFailed, match="no good") as caught:
        job.result(PATIENCE_S)
    assert caught.value.job_id == job.id
    assert caught.value.error["code"] == "model_raised"
    assert job.status == "failed"
    assert job.error == caught.value.error
    assert job.wait(PATIENCE_S) is job
    with pytest.raises(JobFailed):
        client.get(job.id).result(0)
    assert_settled(job, "failed")


def test_a_wait_that_ends_too_soon(client: Client, mini: MiniWorker) -> None:
    job = client.enqueue("echo", 1)
    for timeout in (0, 0.05):
        with pytest.raises(ResultTimeout, match=job.id) as caught:
            job.result(timeout)
        assert isinstance(caught.value, TimeoutError)
    assert not job.ended
    mini.step()
    assert job.result(0) == 1


def test_handles_of_others_jobs(client: Client, client_settings: Settings, running: MiniWorker) -> None:
    job = client.enqueue("echo", 1)
    assert job.result(PATIENCE_S) == 1
    with Client(client_settings) as other:
        seen = other.get(job.id)
        assert seen.reply_to == client._runtime().client_id
        assert seen.output == 1
        assert seen.result() == 1
        with pytest.raises(JobNotFound) as caught:
            other.get("00000000-0000-7000-8000-000000000000")
        assert caught.value.fix


def test_waiting_for_others_jobs(client: Client, client_settings: Settings, mini: MiniWorker) -> None:
    jobs = client.enqueue_many("echo", range(3))
    with Client(client_settings) as other, ThreadPoolExecutor(3) as pool:
        foreign = [other.get(job.id) for job in jobs]
        waits = [pool.submit(job.result, 30) for job in foreign]
        until(lambda: len(other._runtime().push._inbox) == 3)
        mini.step()
        assert [wait.result(PATIENCE_S) for wait in waits] == [0, 1, 2]


def test_as_completed_follows_the_order_of_completion(client: Client, mini: MiniWorker) -> None:
    client._runtime().push.listen()
    jobs = client.enqueue_many("echo", range(10))
    order: list[int] = []
    stream = client.as_completed([*jobs, jobs[3]], timeout=PATIENCE_S)
    for n in (7, 2, 3):
        mini.answer([jobs[n].id])
    order += [next(stream).result() for _ in range(4)]
    assert order == [7, 2, 3, 3]
    mini.step()
    assert sorted(job.result() for job in stream) == [0, 1, 4, 5, 6, 8, 9]
    assert list(client.as_completed(jobs)) == jobs
    assert list(client.as_completed([])) == []


def test_as_completed_in_time_or_not(client: Client, mini: MiniWorker) -> None:
    jobs = client.enqueue_many("echo", range(3))
    mini.answer([jobs[1].id])
    stream = client.as_completed(jobs, timeout=0.2)
    assert next(stream) is jobs[1]
    with pytest.raises(ResultTimeout, match="2 jobs have not ended"):
        next(stream)


def test_many_results(client: Client, running: MiniWorker) -> None:
    jobs = client.enqueue_many("echo", range(3000))
    assert sorted(job.result() for job in client.as_completed(jobs, timeout=60)) == list(range(3000))


def test_results_beyond_what_is_kept_are_read_from_sql(
    client: Client, mini: MiniWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.client import inbox

    monkeypatch.setattr(inbox, "MOST_EARLY", 10)
    client._runtime().push.listen()
    jobs = client.enqueue_many("echo", range(50))
    mini.step()
    assert [job.result(PATIENCE_S) for job in jobs] == list(range(50))


def test_a_dead_subscription_is_noticed(client: Client, mini: MiniWorker, broker: redis.Redis) -> None:
    assert push_module.IDLE_S > 1
    client._runtime().push.listen()
    job = client.enqueue("echo", 1)
    broker.client_kill_filter(_type="pubsub")
    mini.step()  # its news is lost
    assert job.result(PATIENCE_S) == 1


def test_a_client_that_is_closed_under_its_waiters(client: Client, mini: MiniWorker) -> None:
    job = client.enqueue("echo", 1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(job.result, 60)
        until(lambda: len(client._runtime().push._inbox))
        client.close()
        with pytest.raises(PenstockError, match="closed"):
            wait.result(PATIENCE_S)


# Cancel, retry, list, stream --------------------------------------------------------------------------------------


def test_cancel_before_the_start(client: Client, mini: MiniWorker) -> None:
    job = client.enqueue("echo", 1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(job.result, 20)
        until(lambda: len(client._runtime().push._inbox))
        assert client.get(job.id).cancel() == "cancelled"
        with pytest.raises(JobCancelled):
            wait.result(PATIENCE_S)
    assert job.cancel() == "cancelled"
    mini.step()
    assert job.refresh().state is JobState.CANCELLED


def test_cancel_while_running_and_after_the_end(client: Client, mini: MiniWorker) -> None:
    job = client.enqueue("echo", 1)
    mini.store.claim([job.id], worker="mini", now=1.0)
    assert job.cancel() == "cancelling"
    assert job.status == "cancelling"
    done = client.enqueue("echo", 2)
    mini.answer([done.id])
    assert done.cancel() == "succeeded"
    assert done.result(PATIENCE_S) == 2


def test_retry(client: Client, running: MiniWorker) -> None:
    job = client.enqueue("fail", 1)
    assert job.wait(PATIENCE_S).status == "failed"
    before = running.settled
    assert job.retry() is job
    with pytest.raises(JobFailed):
        job.result(PATIENCE_S)
    # The news of a result comes before its count.
    until(lambda: running.settled == before + 1)
    good = client.enqueue("echo", 1)
    good.result(PATIENCE_S)
    with pytest.raises(IllegalTransition):
        good.retry()


def test_list(client: Client, mini: MiniWorker) -> None:
    one = client.enqueue("echo", 1, tags={"run": "7"})
    two = client.enqueue("upper", "x", tenant="acme", lane="background", tags={"run": "8"})
    mini.answer([two.id])
    assert client.list() == [two, one]
    assert client.list(status="succeeded") == client.list(status=JobState.SUCCEEDED) == [two]
    assert client.list(model="echo") == client.list(tag=("run", "7")) == client.list(lane="interactive") == [one]
    assert client.list(tenant="acme", limit=1) == [two]
    assert client.list(tag="run") == [two, one]
    assert client.list(before=two.id) == [one]
    assert client.list(status="succeeded")[0].output == "X"


def test_stream_tells_the_whole_life_and_resumes(client: Client, mini: MiniWorker) -> None:
    job = client.enqueue("upper", "x")
    events = []
    stream = job.stream()
    events.append(next(stream))
    mini.step()
    events += list(stream)
    states = [event.state.value for event in events]
    assert states[0] == "accepted"
    assert states[-2:] == ["running", "succeeded"]
    assert events[-1].data["output"] == "X"
    assert list(job.stream())[-1] == events[-1]
    assert [e.state for e in job.stream(after=events[0].cursor)] == [e.state for e in list(job.stream())[1:]]
    assert list(job.stream(after=events[-1].cursor)) == []


# Settings and ends ------------------------------------------------------------------------------------------------


def test_clients_are_opened_with_settings_or_with_overrides(client_settings: Settings) -> None:
    s = client_settings
    with Client(home=s.home, broker_url=s.broker_url, database_url=s.database_url, namespace=s.namespace) as client:
        client.check()
        assert client.settings.namespace == s.namespace
    with pytest.raises(ConfigError, match="namespace"):
        Client(s, namespace="x")
    with pytest.raises(ConfigError, match="brokr_url"):
        Client(brokr_url="redis://")


def test_models_by_class_and_by_module(client_settings: Settings, tmp_path: Any) -> None:
    path = tmp_path / "my_own_models.py"
    path.write_text(
        "import penstock\n@penstock.model(name='own', version='2')\n"
        "def own(batch: list[int]) -> list[int]:\n    return batch\n"
    )
    with Client(client_settings, models=[str(path), *MODELS]) as client:
        assert client.enqueue("own", 1).job.model == "own"
        assert client.enqueue("upper", "x").job.model == "upper"
        for name in ("own", "own@2"):
            with pytest.raises(InvalidInput):
                client.enqueue(name, "x")
        # Of another version nobody here knows what it takes: its worker validates.
        assert client.enqueue("own@1", "x").job.asked_version == "1"

    class Local(Model):
        name = "local"

        def predict(self, batch: list[int]) -> list[int]:
            return batch

    with Client(client_settings) as client:
        assert client.enqueue(Local, 1).job.model == "local"
        with pytest.raises(InvalidInput):
            client.enqueue(Local, "x")


def test_the_message_is_what_celery_reads(client: Client, client_settings: Settings, broker: redis.Redis) -> None:
    job = client.enqueue("echo", {"a": 1})
    raw = broker.rpop(queue_name(client_settings.namespace, "echo", "interactive"))
    message = json.loads(raw)  # type: ignore[arg-type]
    assert message["headers"]["id"] == job.id
    assert json.loads(message["body"])[0] == [{"a": 1}]
    assert message["headers"]["penstock"]["reply_to"] == client._runtime().client_id


def test_a_client_costs_nothing_until_it_is_used(client_settings: Settings) -> None:
    before = set(threading.enumerate())
    client = penstock.Client(client_settings)
    assert "not connected" in repr(client)
    # No new one; an earlier test's may end just now.
    assert set(threading.enumerate()) <= before
    client.close()
