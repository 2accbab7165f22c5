"""Metrics of real workers and dispatchers: what they have done, and what waits, as Prometheus would read it."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock import clock
from penstock.dispatch.daemon import Dispatcher
from penstock.job import Job, JobState
from penstock.settings import MetricsSettings, Settings
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]
STEP_MODELS = str(Path(__file__).parent.parent / "fixtures" / "stepmodels.py")


class Page:
    """One scrape."""

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
            self.text = answer.read().decode()
        self._samples = [s for f in text_string_to_metric_families(self.text) for s in f.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())

    def has(self, name: str, **labels: str) -> bool:
        return any(s.name == name and labels.items() <= s.labels.items() for s in self._samples)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics": MetricsSettings(port=0)})


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


def address_of(worker: Worker) -> str:
    (registration,) = worker.registrations()
    address: str = registration.info["metrics"]
    assert f"http://{address}/metrics" in worker.output(), "the log says it, too"
    return address


def device_s(jobs: list[Job]) -> float:
    """What the ledgers say that these jobs have taken."""
    return sum((job.ledger.compute_s or 0.0) / (job.batch_size or 1) for job in jobs)


def test_a_worker_tells_what_it_has_done(desk: Desk, worker_factory: WorkerFactory) -> None:
    worker = worker_factory()
    ids = {
        (lane, tenant): desk.submit("nap", *([0.02] * 6), lane=lane, tenant=tenant)
        for lane in ("interactive", "background")
        for tenant in ("a", "b")
    }
    failing = desk.submit("fail", 1, 2, tenant="a")
    jobs = {place: desk.wait(some) for place, some in ids.items()}
    assert {job.state for job in desk.wait(failing)} == {JobState.FAILED}
    address = address_of(worker)
    # The outcomes are counted behind their commit.
    page = wait_for(
        lambda: (page := Page(address)).sum("penstock_jobs_settled_total") >= 26 and page, what="all to be counted"
    )
    for lane in ("interactive", "background"):
        assert page.sum("penstock_jobs_settled_total", model="nap", lane=lane, outcome="succeeded") == 12
    assert page.sum("penstock_jobs_settled_total", model="fail", lane="interactive", outcome="failed") == 2
    assert page.sum("penstock_jobs_settled_total") == 26

    for (lane, tenant), some in jobs.items():
        told = page.sum("penstock_device_seconds_total", model="nap", lane=lane, tenant=tenant)
        assert told == pytest.approx(device_s(some), rel=0.01), (lane, tenant)
    assert page.sum("penstock_device_seconds_total", tenant="a", model="fail") > 0
    assert not page.has("penstock_device_seconds_total", tenant="default")

    every = [job for some in jobs.values() for job in some]
    # A batch is known by its start: all its jobs have the same.
    batches = {job.ledger.started_at: job.batch_reason for job in every}
    for reason, count in Counter(batches.values()).items():
        assert page.sum("penstock_batches_total", model="nap", reason=reason) == count
    assert page.sum("penstock_batches_total", model="nap") == len(batches)
    assert page.sum("penstock_batch_size_count", model="nap") == len(batches)
    assert page.sum("penstock_batch_size_sum", model="nap") == len(every)
    assert page.sum("penstock_batch_fill_ratio_sum", model="nap") == pytest.approx(len(every) / 4)
    took_s = sum({job.ledger.started_at: job.ledger.compute_s for job in every}.values())
    assert took_s <= page.sum("penstock_batch_duration_seconds_sum", model="nap") < took_s + 0.5 * len(batches)
    assert page.sum("penstock_batch_wait_seconds_count", model="nap") == len(batches)

    # The first of each size compiles and allocates: nothing is learned from it.
    sizes = {job.batch_size for job in every}
    assert page.sum("penstock_latency_batches", model="nap") == len(batches) - len(sizes)
    assert 0 < page.sum("penstock_latency_alpha_seconds", model="nap") < 1
    assert page.sum("penstock_latency_margin_ratio", model="nap") >= 1
    median, worst = (page.sum("penstock_prediction_error_ratio", model="nap", quantile=q) for q in ("0.5", "0.99"))
    assert 0 <= median <= worst

    for id in (*failing, *(id for some in ids.values() for id in some)):
        assert id not in page.text


def test_a_worker_tells_of_its_steps(settings: Settings, desk: Desk, worker_factory: WorkerFactory) -> None:
    worker = worker_factory(settings=settings.model_copy(update={"models": [STEP_MODELS]}), args=("--model", "speller"))
    (job,) = desk.wait(desk.submit("speller", {"text": "word", "step_s": 0.02}, tenant="a"))
    address = address_of(worker)
    page = wait_for(lambda: (page := Page(address)).sum("penstock_jobs_settled_total") and page, what="the end")
    # One per letter, and the last one, which tells that there is no more.
    assert page.sum("penstock_step_duration_seconds_count", model="speller") == 5
    assert page.sum("penstock_step_size_sum", model="speller") == 5
    assert page.sum("penstock_batches_total", model="speller", reason="begin") == 1
    assert page.sum("penstock_step_duration_seconds_sum", model="speller") == pytest.approx(device_s([job]), rel=0.05)
    assert page.sum("penstock_device_seconds_total", model="speller", tenant="a") == pytest.approx(device_s([job]))
    assert page.sum("penstock_latency_batches", model="speller") == 4, "all but the first"


def test_a_dispatcher_tells_what_waits(
    settings: Settings, desk: Desk, worker_factory: WorkerFactory, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    worker_factory().stop()  # from now on the models are known, and nobody serves them
    waiting = desk.submit("nap", *([0.3] * 5), lane="background", tenant="a") + desk.submit(
        "nap", 0.3, lane="background"
    )
    page = Page(dispatcher.metrics)
    assert page.sum("penstock_queue_depth", model="nap", lane="background") == 6
    assert page.sum("penstock_queue_depth", model="nap", lane="interactive") == 0
    assert page.has("penstock_queue_depth", model="nap", lane="interactive")
    assert page.sum("penstock_jobs_in_flight") == 0
    assert page.sum("penstock_reachable", server="broker") == page.sum("penstock_reachable", server="database") == 1

    worker_factory()
    wait_for(
        lambda: Page(dispatcher.metrics).sum("penstock_jobs_in_flight", model="nap", lane="background") > 0,
        what="jobs in flight",
    )
    desk.wait(waiting)
    wait_for(desk.broker_is_empty, what="all acknowledgements")
    page = Page(dispatcher.metrics)
    assert page.sum("penstock_queue_depth") == page.sum("penstock_jobs_in_flight") == 0
    assert not page.has("penstock_jobs_settled_total"), "others' work is theirs to tell"


def test_a_dispatcher_tells_what_it_has_expired_and_rescued(
    settings: Settings, desk: Desk, worker_factory: WorkerFactory, dispatcher: Dispatcher
) -> None:
    (lost,) = desk.submit("nap", 30.0, lane="background")
    worker = worker_factory()
    wait_for(lambda: desk.jobs([lost])[0].state is JobState.RUNNING, what="it to run")
    worker.kill()
    late = desk.submit("nap", 0.01, deadline_at=clock.now() - 1)
    assert [job.state for job in desk.wait(late)] == [JobState.EXPIRED]
    wait_for(
        lambda: Page(dispatcher.metrics).sum("penstock_jobs_requeued_total", model="nap", lane="background") == 1,
        what="the rescue",
    )
    page = Page(dispatcher.metrics)
    assert page.sum("penstock_jobs_settled_total", model="nap", lane="interactive", outcome="expired") == 1
    assert page.sum("penstock_jobs_settled_total") == 1


def test_a_scrape_without_the_broker_tells_the_rest(
    settings: Settings, dispatcher: Dispatcher, redis_server: RedisServer
) -> None:
    assert Page(dispatcher.metrics).sum("penstock_reachable", server="broker") == 1
    redis_server.stop()
    page = Page(dispatcher.metrics)
    assert page.has("penstock_reachable", server="broker")
    assert page.sum("penstock_reachable", server="broker") == 0
    assert page.sum("penstock_reachable", server="database") == 1
    assert not page.has("penstock_queue_depth")


def test_a_second_worker_on_the_same_port_says_what_to_type(settings: Settings, worker_factory: WorkerFactory) -> None:
    port = int(address_of(worker_factory()).rpartition(":")[2])
    again = settings.model_copy(update={"metrics": MetricsSettings(port=port)})
    second = worker_factory(settings=again, ready=False)
    assert second.wait() == 1
    assert f"error: metrics cannot be served at 127.0.0.1:{port}: Address already in use" in second.output()
    assert "--metrics-port" in second.output()
    assert "Traceback" not in second.output()


def test_the_port_is_free_again_after_a_stop(settings: Settings, worker_factory: WorkerFactory) -> None:
    first = worker_factory()
    address = address_of(first)
    assert first.stop() == 0
    again = settings.model_copy(update={"metrics": MetricsSettings(port=int(address.rpartition(":")[2]))})
    assert address_of(worker_factory(settings=again)) == address
    assert Page(address).has("process_cpu_seconds_total")


def test_step_times_are_kept_for_the_next_worker(settings: Settings, desk: Desk, worker_factory: WorkerFactory) -> None:
    settings = settings.model_copy(update={"models": [STEP_MODELS]})
    worker = worker_factory(settings=settings, args=("--model", "speller"))
    desk.wait(desk.submit("speller", {"text": "four", "step_s": 0.03}))
    worker.stop()
    (kept,) = desk.store.latencies()
    assert (kept.model, kept.device, kept.key, kept.state["seen"]) == ("speller", "cpu", "", 4)

    # Before it has taken a step of its own, the next one knows how long one takes, and how wrong that was.
    page = Page(address_of(worker_factory(settings=settings, args=("--model", "speller"))))
    assert page.sum("penstock_latency_batches", model="speller") == 4
    step_s = page.sum("penstock_latency_alpha_seconds") + page.sum("penstock_latency_beta_seconds")
    assert 0.03 <= step_s < 0.3
    told = page.sum("penstock_prediction_error_ratio", model="speller", quantile="0.99")
    assert told == pytest.approx(kept.state["error_p99"], abs=1e-4)
    assert not page.has("penstock_jobs_settled_total")
