"""A real worker process with a real broker and both databases: what it does with jobs, good and bad."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import penstock
from penstock import clock
from penstock.job import Job, JobState, NewJob, new_id
from penstock.jsontext import dumps
from penstock.lane import Lane, queue_name
from penstock.policy.latency import LatencyModel
from penstock.processes.agreed import EXIT_NOT_LOADED, EXIT_WEDGED
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import inspect
from penstock.transport.publisher import Publisher
from penstock.transport.url import connect
from penstock_cli import stranded
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for

WorkerFactory = Callable[..., Worker]


class Desk:
    """Submits jobs the short way and waits for them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store.open(settings.database)
        self.publisher = Publisher(settings.broker, settings.namespace)

    def submit(self, model: str, *inputs: object, lane: str = "interactive", **fields: object) -> list[str]:
        now = clock.now()
        jobs = [
            NewJob(
                id=new_id(),
                model=model,
                version="1",
                input=dumps(value),
                lane=lane,
                accepted_at=now,
                available_at=now,
                **fields,
            )
            for value in inputs
        ]
        self.store.insert(jobs)
        self.publisher.publish(jobs)
        self.store.mark_queued([job.id for job in jobs], now=clock.now())
        return [job.id for job in jobs]

    def jobs(self, ids: list[str]) -> list[Job]:
        found = self.store.get_many(ids)
        return [found[id] for id in ids]

    def wait(self, ids: list[str], *states: JobState) -> list[Job]:
        """The jobs once all are in one of ``states`` (default: any terminal one)."""

        def reached() -> list[Job]:
            jobs = self.jobs(ids)
            done = all(j.state in states if states else j.state.is_terminal for j in jobs)
            return jobs if done else []

        return wait_for(reached, what=f"{len(ids)} jobs to be {states or 'settled'}") if ids else []

    def broker_is_empty(self) -> bool:
        """Whether the broker holds no message any more, neither ready nor claimed."""
        with connect(self.settings.broker) as client:
            queues = inspect.queues(client, self.settings.namespace)
            return not any(d.total for d in inspect.depths(client, self.settings.namespace, queues).values())

    def close(self) -> None:
        self.publisher.close()
        self.store.close()


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


def test_a_job_from_queue_to_output(desk: Desk, worker_factory: WorkerFactory):
    worker_factory()
    (job,) = desk.wait(desk.submit("upper", "hello"))
    assert (job.state, job.output, job.attempt) == (JobState.SUCCEEDED, "HELLO", 1)
    ledger = job.ledger
    assert ledger.accepted_at <= ledger.queued_at
    assert ledger.claimed_at <= ledger.started_at <= ledger.settled_at
    assert ledger.batch_wait_s >= 0
    assert ledger.compute_s >= 0
    assert (job.batch_size, job.batch_reason) == (1, "idle")
    wait_for(desk.broker_is_empty, what="the acknowledgement")


def test_a_backlog_is_batched_and_all_is_acknowledged(desk: Desk, worker_factory: WorkerFactory):
    ids = desk.submit("echo", *range(500), lane="background")
    worker_factory()
    jobs = desk.wait(ids)
    assert [j.output for j in jobs] == list(range(500))
    assert {j.attempt for j in jobs} == {1}
    assert max(j.batch_size for j in jobs) == 64
    assert "full" in {j.batch_reason for j in jobs}
    wait_for(desk.broker_is_empty, what="the acknowledgements")


def test_interactive_goes_first(desk: Desk, worker_factory: WorkerFactory):
    slow = desk.submit("nap", *([0.05] * 40), lane="background")
    fast = desk.submit("nap", 0.01, lane="interactive")
    worker_factory()
    (first,) = desk.wait(fast)
    rest = desk.wait(slow)
    earlier = [job for job in rest if job.ledger.settled_at < first.ledger.settled_at]
    assert len(earlier) <= 8, "at most the running and the next batch"


def test_a_large_input_comes_from_sql(desk: Desk, worker_factory: WorkerFactory):
    worker_factory()
    text = "ä" * 50_000
    (job,) = desk.wait(desk.submit("upper", text))
    assert job.output == text.upper()


def test_cost_bounds_the_batches(desk: Desk, worker_factory: WorkerFactory):
    ids = desk.submit("weighed", "aaaa", "bbbb", "cccc", "d" * 50, "e", lane="background")
    worker_factory()
    jobs = desk.wait(ids)
    assert jobs[3].output == 50, "an item above the limit runs alone"
    assert all(job.output <= 10 for i, job in enumerate(jobs) if i != 3)


def test_cost_bounds_the_batches_of_inputs_that_are_in_sql(desk: Desk, worker_factory: WorkerFactory):
    """Too long for a message each, and never two in a batch."""
    texts = [letter * 2_000 for letter in "abcde"]
    ids = desk.submit("weighed", *texts, lane="background")
    worker_factory()
    assert [job.output for job in desk.wait(ids)] == [2_000] * 5


def test_batch_times_are_learned_and_kept_for_the_next_worker(desk: Desk, worker_factory: WorkerFactory):
    worker = worker_factory()
    for _ in range(4):
        desk.wait(desk.submit("nap", *([0.05] * 4), lane="background"))
    worker.stop()
    (line,) = [line for line in desk.store.latencies() if line.model == "nap"]
    assert (line.version, line.device, line.key) == ("1", "cpu", "")
    assert line.state["seen"] >= 3
    assert 0.045 < LatencyModel.restore(line.state).predict(1) < 0.5
    seen = line.state["seen"]
    worker = worker_factory()
    for _ in range(2):
        desk.wait(desk.submit("nap", 0.05))
    worker.stop()
    (line,) = [line for line in desk.store.latencies() if line.model == "nap"]
    assert line.state["seen"] == seen + 1, "the second worker went on from where the first one was, after a first call"


@pytest.mark.parametrize(
    ("model", "input", "code", "text"),
    [
        ("fail", 1, "model_raised", "ValueError: no good: 1"),
        ("panic", 1, "model_raised", "PanicException: panicked at 1"),
        ("short", 1, "wrong_result_count", "0 results for 1 items"),
        ("upper", 5, "invalid_input", "does not fit model 'upper'"),
    ],
)
def test_failures_are_stored_with_a_code(desk: Desk, worker_factory: WorkerFactory, model, input, code, text):
    worker_factory()
    (job,) = desk.wait(desk.submit(model, input))
    assert job.state is JobState.FAILED
    assert job.error["code"] == code
    assert text in job.error["message"]
    assert "Traceback" not in job.error["message"]
    wait_for(desk.broker_is_empty, what="the acknowledgement")
    (after,) = desk.wait(desk.submit("upper", "still here"))
    assert after.output == "STILL HERE", "the worker goes on"


def test_one_bad_item_fails_alone(desk: Desk, worker_factory: WorkerFactory):
    ids = desk.submit("picky", 1, -2, 3, lane="background")
    worker_factory()
    jobs = desk.wait(ids)
    assert [j.state.value for j in jobs] == ["succeeded", "failed", "succeeded"]
    assert jobs[1].error["message"] == "ValueError: negative: -2"


@pytest.mark.parametrize(
    ("absurd", "code", "text"),
    [
        ("unprintable", "model_raised", "Unprintable: (a Unprintable whose text cannot be had"),
        ("not utf-8", "model_raised", r"FileNotFoundError: no file caf\udce9.txt"),
        ("5 MB", "model_raised", "… (5000000 bytes)"),
        ("unwritable", "invalid_output", "no list"),
        ("half a pair", "invalid_output", "surrogate pair"),
    ],
)
def test_an_absurd_result_fails_alone_and_at_once(
    desk: Desk, worker_factory: WorkerFactory, absurd: str, code: str, text: str
):
    ids = desk.submit("absurd", "one", absurd, "two", lane="background")
    worker_factory()
    one, bad, two = desk.wait(ids)
    assert (one.output, bad.state, two.output) == ("one", JobState.FAILED, "two")
    assert bad.error["code"] == code
    assert text in bad.error["message"]
    assert len(bad.error["message"]) < 10_000
    assert {job.attempt for job in (one, bad, two)} == {1}
    wait_for(desk.broker_is_empty, what="the acknowledgements")


def test_a_passing_fault_is_tried_again(desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path):
    worker_factory()
    (job,) = desk.wait(desk.submit("flaky", [str(tmp_path / "tries"), 2]))
    assert (job.output, job.attempt, job.failures) == (3, 3, 2)


def test_retries_run_out(desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path):
    worker_factory()
    (job,) = desk.wait(desk.submit("flaky", [str(tmp_path / "tries"), 99]))
    assert job.state is JobState.FAILED
    assert (job.attempt, job.error["message"]) == (4, "ConnectionError: try 4")


def test_a_cancelled_job_never_runs(desk: Desk, worker_factory: WorkerFactory, tmp_path: Path):
    ids = desk.submit("ledgered", [str(tmp_path / "ran"), 1], [str(tmp_path / "ran"), 2])
    assert desk.store.cancel(ids[0], now=clock.now()).state is JobState.CANCELLED
    worker_factory()
    jobs = desk.wait(ids)
    assert [j.state.value for j in jobs] == ["cancelled", "succeeded"]
    assert (tmp_path / "ran").read_text() == "2\n"
    wait_for(desk.broker_is_empty, what="the acknowledgement of the cancelled job's message")


def test_cancelling_a_running_job_discards_its_result(desk: Desk, worker_factory: WorkerFactory):
    worker_factory()
    ids = desk.submit("nap", 1.5)
    desk.wait(ids, JobState.RUNNING)
    assert desk.store.cancel(ids[0], now=clock.now()).status == "cancelling"
    (job,) = desk.wait(ids)
    assert (job.state, job.output) == (JobState.CANCELLED, None)


def test_an_overdue_job_is_expired_without_running(desk: Desk, worker_factory: WorkerFactory, tmp_path: Path):
    ids = desk.submit("ledgered", [str(tmp_path / "ran"), 1], deadline_at=clock.now() - 1)
    worker_factory()
    (job,) = desk.wait(ids)
    assert job.state is JobState.EXPIRED
    assert not (tmp_path / "ran").exists()


def test_a_deadline_that_passes_while_running_drops_the_result(desk: Desk, worker_factory: WorkerFactory):
    worker_factory()
    (job,) = desk.wait(desk.submit("nap", 1.0, deadline_at=clock.now() + 0.6))
    assert (job.state, job.output) == (JobState.EXPIRED, None)


def test_no_device_time_is_spent_on_a_job_whose_deadline_passes_before_its_batch_would_end(
    desk: Desk, worker_factory: WorkerFactory
):
    worker_factory()
    for _ in range(2):
        desk.wait(desk.submit("nap", 0.8))
    (first,) = desk.wait(desk.submit("nap", 0.8), JobState.RUNNING)
    # What comes now runs from 0.8 to 1.6 s.
    tight = desk.submit("nap", 0.8, deadline_at=first.ledger.claimed_at + 1.2)
    (mate,) = desk.wait(desk.submit("nap", 0.8))
    (job,) = desk.wait(tight)
    assert mate.state is JobState.SUCCEEDED
    assert (job.state, job.ledger.started_at) == (JobState.EXPIRED, None)
    wait_for(desk.broker_is_empty, what="the acknowledgement")


def test_a_duplicate_message_is_harmless(desk: Desk, worker_factory: WorkerFactory, tmp_path: Path):
    ids = desk.submit("ledgered", [str(tmp_path / "ran"), 1])
    for _ in range(5):
        desk.publisher.publish(desk.jobs(ids))
    worker_factory()
    desk.wait(ids)
    wait_for(desk.broker_is_empty, what="all six messages to be acknowledged")
    assert (tmp_path / "ran").read_text() == "1\n"


def test_sigterm_finishes_the_batch_and_gives_back_the_rest(desk: Desk, worker_factory: WorkerFactory, tmp_path: Path):
    ran = tmp_path / "ran"
    ids = desk.submit("ledgered", *([str(ran), n, 0.3] for n in range(200)), lane="background")
    worker = worker_factory()
    wait_for(ran.exists, what="the first batch")
    assert worker.stop() == 0
    jobs = desk.jobs(ids)
    assert {j.state for j in jobs} <= {JobState.SUCCEEDED, JobState.QUEUED}
    done = [j for j in jobs if j.state is JobState.SUCCEEDED]
    assert 0 < len(done) < 200
    assert len(ran.read_text().splitlines()) == len(done), "what ran is settled"
    # Given back at once, not after the lease: the next worker starts with them.
    worker_factory()
    desk.wait(ids)
    assert sorted(map(int, ran.read_text().split())) == list(range(200)), "each ran exactly once"


@pytest.mark.both_databases
def test_a_killed_workers_jobs_are_rescued(desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path):
    ran = tmp_path / "ran"
    ids = desk.submit("ledgered", *([str(ran), n, 0.2] for n in range(100)), lane="background")
    worker = worker_factory()
    wait_for(ran.exists, what="the first batch")
    worker.kill()
    worker_factory()
    jobs = desk.wait(ids)
    assert {j.state for j in jobs} == {JobState.SUCCEEDED}
    assert max(j.losses for j in jobs) == 1
    wait_for(desk.broker_is_empty, what="the broker to hold nothing")


def test_a_model_that_never_returns_is_ended_by_its_timeout(desk: Desk, worker_factory: WorkerFactory, dispatcher):
    worker = worker_factory(supervised=True)
    stuck = desk.submit("nap", 3600, timeout_s=1.0)
    (job,) = desk.wait(stuck)
    assert job.state is JobState.FAILED
    assert job.error["code"] == "attempt_timeout"
    assert "did not return within 1 s" in job.error["message"]
    (after,) = desk.wait(desk.submit("upper", "still here"))
    assert after.output == "STILL HERE"
    assert str(EXIT_WEDGED) in worker.output()
    assert worker.stop() == 0


def test_batch_mates_of_a_wedged_model_run_again(desk: Desk, worker_factory: WorkerFactory, dispatcher):
    ids = desk.submit("nap", 3.0, lane="background", timeout_s=1.0) + desk.submit("nap", 0.0, lane="background")
    worker_factory(supervised=True)
    late, mate = desk.wait(ids)
    assert (late.state, late.error["code"]) == (JobState.FAILED, "attempt_timeout")
    assert (mate.state, mate.failures, mate.losses) == (JobState.SUCCEEDED, 0, 0)


@pytest.mark.parametrize("supervised", [False, True])
def test_a_model_that_does_not_load_ends_the_worker_with_its_error(
    settings: Settings, worker_factory: WorkerFactory, tmp_path: Path, supervised: bool
):
    (tmp_path / "bad.py").write_text(
        "from penstock import Model\n"
        "class Bad(Model):\n"
        "    name = 'bad'\n"
        "    def load(self, device): raise FileNotFoundError('weights.bin')\n"
        "    def predict(self, batch: list[str]) -> list[str]: return batch\n"
    )
    broken = settings.model_copy(update={"models": [str(tmp_path / "bad.py")]})
    worker = worker_factory(settings=broken, ready=False, supervised=supervised)
    assert worker.wait() == EXIT_NOT_LOADED
    assert "model 'bad' did not load on cpu: FileNotFoundError: weights.bin" in worker.output()
    assert "Traceback" not in worker.output()


def test_a_worker_without_models_says_so(settings: Settings, worker_factory: WorkerFactory):
    worker = worker_factory(settings=settings.model_copy(update={"models": []}), ready=False)
    assert worker.wait() == 1
    assert "PENSTOCK_MODELS" in worker.output()
    assert "Traceback" not in worker.output()


FUNCTIONS = """
import penstock

@penstock.model(name="embed")
def embed(batch: list[str]) -> list[str]: return batch

@penstock.step
def pick(passage: str) -> str: return passage.upper()

@penstock.pipeline
def answer(passage: str):
    return pick(embed(passage))
"""


def test_functions_are_run_on_a_cpu_and_beside_no_other_device(
    settings: Settings, worker_factory: WorkerFactory, dispatcher, tmp_path: Path
):
    module = tmp_path / "functions.py"
    module.write_text(FUNCTIONS)
    both = settings.model_copy(update={"models": [str(module)]})
    # Nothing here looks at the device: it is one that no program has.
    other = both.model_copy(update={"worker": both.worker.model_copy(update={"device": "accelerator:0"})})
    device = worker_factory("device", settings=other)
    [told] = [line for line in device.output().splitlines() if "worker.functions" in line]
    assert '["pick"]' in told and f"penstock worker --pool cpu {module}" in told
    assert set(device.registrations()[0].info["models"]) == {"embed"}
    alone = worker_factory("alone", settings=other, ready=False, args=("--model", "pick"))
    assert alone.wait() == 1 and "penstock worker --pool cpu" in alone.output()

    with penstock.Client(both) as client:
        job = client.enqueue("answer", {"passage": "e"})
        with closing(Store.open(both.database)) as store:
            app: Any = SimpleNamespace(settings=both, store=store)
            [queue] = wait_for(lambda: stranded.unserved(app), what="doctor to miss a worker of functions")
            assert queue == queue_name(both.namespace, "pick", Lane.INTERACTIVE)
            assert "penstock worker --pool cpu" in stranded.why(queue, app)
        on_cpu = worker_factory("cpu", settings=both)
        assert set(on_cpu.registrations()[0].info["models"]) == {"embed", "pick"}
        assert "worker.functions" not in on_cpu.output()
        assert job.result(timeout=PATIENCE_S) == "E"


def test_a_restart_of_redis_loses_nothing(desk: Desk, worker_factory: WorkerFactory, dispatcher, redis_server):
    worker_factory()
    ids = desk.submit("nap", *([0.02] * 100), lane="background")
    desk.wait(ids[:1])
    redis_server.kill()
    redis_server.start()
    assert {j.state for j in desk.wait(ids)} == {JobState.SUCCEEDED}
    (after,) = desk.wait(desk.submit("upper", "x"))
    assert after.output == "X"


def test_two_workers_share_a_backlog(desk: Desk, worker_factory: WorkerFactory):
    worker_factory()
    worker_factory()
    ids = desk.submit("nap", *([0.05] * 80), lane="background")
    jobs = desk.wait(ids)
    assert {j.attempt for j in jobs} == {1}
    starts = {round(j.ledger.started_at, 6) for j in jobs}
    assert len(starts) >= 20, "batches of four, on two workers"


def test_sigint_stops_it_too(worker_factory: WorkerFactory):
    worker = worker_factory()
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0
