"""The table of metrics, what is counted between two scrapes, and the endpoint that tells it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock import Batching
from penstock.errors import ConfigError
from penstock.job import JobState
from penstock.lane import Lane
from penstock.model import Model
from penstock.policy.latency import LatencyBook
from penstock.settings import MetricsSettings
from penstock.store.records import Settled
from penstock.telemetry import metrics as m
from penstock.telemetry.exposition import Collector, Endpoint
from penstock.telemetry.pages import Answer
from penstock.telemetry.tally import MOST_TENANTS, OTHER, Fold, Histogram, Sample, Settlements
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.meter import Meter
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.stepmodels import Speller

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BY_NAME = {metric.name: metric for metric in m.TABLE}


class Echo(Model):
    name = "echo"
    batching = Batching(max_size=8)

    def predict(self, batch: list[int]) -> list[int]:
        return batch


def text_of(samples: Iterable[Sample]) -> str:
    registry = CollectorRegistry()
    made = list(samples)
    registry.register(Collector(lambda: made))
    return generate_latest(registry).decode()


def read(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values in the order of their names -> value, as Prometheus reads the page."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def run_of(
    *tenants: str, lane: Lane = Lane.INTERACTIVE, device_s: float = 0.25, waited_s: float = 0.03, reason: str = "idle"
) -> Run:
    items = []
    for number, tenant in enumerate(tenants):
        # The first one is the oldest.
        arrived = 100.0 - (waited_s if number == 0 else 0.0)
        item = Item(
            f"id{number}", "echo", lane, input="1", tag=number, source="", arrived_at=arrived, claimed_at=arrived
        )
        item.tenant, item.device_s = tenant, device_s
        items.append(item)
    run = Run(Batch(Echo, items, reason, taken_mono=100.0), live=items)
    run.ended_mono = 100.4
    return run


def rows(*states: JobState, lane: Lane = Lane.INTERACTIVE) -> list[Settled]:
    return [Settled(f"id{n}", state, 1, None, None, "echo", lane, None) for n, state in enumerate(states)]


# The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", m.TABLE, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: m.Metric) -> None:
    assert re.fullmatch(r"penstock_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is m.Kind.COUNTER)
    assert not re.search(r"_(ms|millis|milliseconds|s|kb|percent)(_total)?$", metric.name), "base units"
    assert metric.meaning.endswith(".")
    assert bool(metric.bounds) == (metric.kind is m.Kind.HISTOGRAM)
    assert list(metric.bounds) == sorted(set(metric.bounds))
    bounded = {"model", "lane", "tenant", "reason", "outcome", "quantile", "server", "pool", "state"}
    assert set(metric.labels) <= bounded


def test_every_metric_is_in_the_table_once() -> None:
    assert len(BY_NAME) == len(m.TABLE)
    assert {value for value in vars(m).values() if isinstance(value, m.Metric)} == set(m.TABLE)


def test_the_page_has_the_table() -> None:
    """``docs/operations.md`` names every metric with its labels, and no other."""
    found = re.findall(r"^\| `(penstock_\w+)` \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: tuple(re.findall(r"\w+", labels)) for name, labels in found} == {
        metric.name: metric.labels for metric in m.TABLE
    }
    assert len(found) == len(m.TABLE)


# Counting ---------------------------------------------------------------------------------------------------------


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 7.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 12.0)


def test_labels_that_others_choose_are_bounded() -> None:
    fold = Fold()
    labels = [fold(f"tenant{number}") for number in range(MOST_TENANTS + 50)]
    assert labels == [f"tenant{number}" for number in range(MOST_TENANTS)] + [OTHER] * 50
    assert fold("tenant3") == "tenant3", "who has a series keeps it"
    assert fold("tenant240") == OTHER


def test_ends_and_returns_are_told_apart() -> None:
    settlements = Settlements()
    settlements.count(rows(JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.EXPIRED))
    settlements.count(rows(JobState.ACCEPTED, JobState.FAILED, lane=Lane.BACKGROUND))
    assert sorted((metric.name, labels, value) for metric, labels, value in settlements.samples()) == [
        ("penstock_jobs_requeued_total", ("echo", "background"), 1),
        ("penstock_jobs_settled_total", ("echo", "background", "failed"), 1),
        ("penstock_jobs_settled_total", ("echo", "interactive", "expired"), 1),
        ("penstock_jobs_settled_total", ("echo", "interactive", "succeeded"), 2),
    ]


def test_a_workers_batches_as_prometheus_reads_them() -> None:
    meter = Meter({"echo": Echo}, LatencyBook())
    meter.ran(run_of("a", "a", reason="full"))
    meter.ran(run_of("a", "a", "a", "a", waited_s=0.0))
    meter.ran(run_of())  # every job of it was cancelled: it did not run
    found = read(text_of(meter.samples()))
    assert found["penstock_batches_total"] == {("echo", "full"): 1, ("echo", "idle"): 1}
    assert found["penstock_batch_size_bucket"]["1.0", "echo"] == 0
    assert found["penstock_batch_size_bucket"]["2.0", "echo"] == 1
    assert found["penstock_batch_size_bucket"]["+Inf", "echo"] == found["penstock_batch_size_count"]["echo",] == 2
    assert found["penstock_batch_size_sum"]["echo",] == 6
    assert found["penstock_batch_fill_ratio_sum"]["echo",] == pytest.approx(2 / 8 + 4 / 8)
    assert found["penstock_batch_wait_seconds_sum"]["echo",] == pytest.approx(0.03), "of the oldest in each"
    assert found["penstock_batch_duration_seconds_sum"]["echo",] == pytest.approx(0.8)


def test_device_time_by_lane_and_tenant() -> None:
    meter = Meter({"echo": Echo}, LatencyBook())
    meter.settled([], [run_of("a", "b", "b", "a"), run_of("b", lane=Lane.BACKGROUND), run_of("idle", device_s=0.0)])
    found = read(text_of(meter.samples()))["penstock_device_seconds_total"]
    assert found == {
        ("interactive", "echo", "a"): 0.5,
        ("interactive", "echo", "b"): 0.5,
        ("background", "echo", "b"): 0.25,
    }


def test_device_time_is_complete_with_any_number_of_tenants() -> None:
    meter = Meter({"echo": Echo}, LatencyBook())
    names = [f"tenant{number}" for number in range(3 * MOST_TENANTS)]
    meter.settled([], [run_of(name, names[-1 - number]) for number, name in enumerate(names)])
    found = read(text_of(meter.samples()))["penstock_device_seconds_total"]
    assert len(found) == MOST_TENANTS + 1
    assert sum(found.values()) == pytest.approx(len(names) * 0.5)
    assert found["interactive", "echo", OTHER] > 0


@pytest.mark.parametrize("name", ["\ud83d", 'a"b\\c\nd', "ü", "x" * 255])
def test_no_tenants_name_can_break_the_page(name: str) -> None:
    meter = Meter({"echo": Echo}, LatencyBook())
    meter.settled([], [run_of(name)])
    (labels,) = read(text_of(meter.samples()))["penstock_device_seconds_total"]
    assert labels == ("interactive", "echo", name.encode(errors="backslashreplace").decode())


def test_what_was_learned_is_told_of_the_model_not_of_its_keys() -> None:
    latency = LatencyBook()
    meter = Meter({"echo": Echo, "speller": Speller}, latency)
    assert not [name for name in read(text_of(meter.samples())) if "latency" in name or "prediction" in name]
    for _ in range(100):
        latency.observe("echo", 4, 0.014, key="long")
        latency.observe("echo", 2, 0.012, key="short")
    latency.observe("echo", 4, 0.028, key="long")
    found = read(text_of(meter.samples()))
    line = latency.line("echo")
    assert found["penstock_latency_alpha_seconds"] == {("echo",): line.alpha}
    assert found["penstock_latency_beta_seconds"] == {("echo",): line.beta}
    assert found["penstock_latency_margin_ratio"] == {("echo",): line.margin}
    assert found["penstock_latency_batches"] == {("echo",): 201}
    errors = found["penstock_prediction_error_ratio"]
    assert errors == {("echo", "0.5"): line.error(0.5), ("echo", "0.99"): line.error(0.99)}
    assert errors["echo", "0.5"] < 0.01 < errors["echo", "0.99"]


def test_steps_of_a_step_wise_model() -> None:
    meter = Meter({"speller": Speller}, LatencyBook())
    meter.begun("speller", "begin")
    meter.begun("speller", "join")
    meter.begun("speller", "join")
    meter.stepped("speller", 3, 0.02)
    found = read(text_of(meter.samples()))
    assert (found["penstock_step_size_sum"]["speller",], found["penstock_step_size_count"]["speller",]) == (3, 1)
    assert found["penstock_step_duration_seconds_sum"]["speller",] == 0.02
    assert found["penstock_batches_total"] == {("speller", "begin"): 1, ("speller", "join"): 2}
    assert "penstock_batch_size_count" not in found


# The endpoint -----------------------------------------------------------------------------------------------------


def get(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def test_a_scrape_asks_the_source_each_time() -> None:
    asked: list[int] = []

    def source() -> list[Sample]:
        asked.append(1)
        return [(m.REACHABLE, ("broker",), len(asked))]

    endpoint = Endpoint(MetricsSettings(port=0), source)
    endpoint.start()
    try:
        assert not asked
        assert [read(get(endpoint.address))["penstock_reachable"]["broker",] for _ in range(2)] == [1, 2]
        assert "process_cpu_seconds_total" in get(endpoint.address)
    finally:
        address = endpoint.address
        endpoint.stop()
    endpoint.stop()
    with pytest.raises(OSError):
        get(address)


def test_a_port_that_is_taken_names_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use") as caught:
            Endpoint(MetricsSettings(port=port), list).start()
    assert "--metrics-port" in caught.value.fix


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be served") as caught:
        Endpoint(MetricsSettings(host="192.0.2.1", port=0), list).start()
    assert "metrics.host" in caught.value.fix


def test_without_a_port_nothing_is_imported() -> None:
    """Neither by the worker, nor by the dispatcher, nor by an endpoint that is off."""
    code = (
        "import sys, penstock_worker.serving, penstock.dispatch.daemon\n"
        "from penstock.settings import MetricsSettings\n"
        "from penstock.telemetry.exposition import Endpoint\n"
        "endpoint = Endpoint(MetricsSettings(), list); endpoint.start(); endpoint.stop()\n"
        "print('prometheus_client' in sys.modules, repr(endpoint.address))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "''"]


def ask(address: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture
def pages() -> Iterator[str]:
    """The address of an endpoint with two pages."""

    def broken(below: str) -> Answer:
        raise RuntimeError(below)

    endpoint = Endpoint(
        MetricsSettings(port=0),
        list,
        pages={
            "/said": lambda below: Answer({"below": below}),
            "/broken": broken,
            "/text": lambda below: Answer("fine"),
        },
    )
    endpoint.start()
    yield endpoint.address
    endpoint.stop()


@pytest.mark.parametrize(
    "path, below",
    [("/said", ""), ("/said/", ""), ("/said/a", "a"), ("/said/a/b", "a/b"), ("/said/%C3%A9%20x?q=1", "é x")],
)
def test_a_page_is_given_what_follows_its_path(pages: str, path: str, below: str) -> None:
    status, headers, body = ask(pages, path)
    assert (status, json.loads(body)) == (200, {"below": below})
    assert headers["content-type"] == "application/json" and headers["cache-control"] == "no-store"


def test_pages_can_be_read_only(pages: str) -> None:
    status, headers, body = ask(pages, "/said/a", "HEAD")
    assert status == 200 and int(headers["content-length"]) > 0 and body == b""
    status, headers, body = ask(pages, "/said", "POST")
    assert status == 405 and headers["allow"] == "GET, HEAD" and json.loads(body)["error"]


def test_a_page_that_fails_says_so_and_the_others_go_on(pages: str) -> None:
    status, _, body = ask(pages, "/broken/x")
    assert status == 500 and b"RuntimeError" not in body
    assert ask(pages, "/text")[2] == b"fine\n"
    assert ask(pages, "/metrics")[0] == 200
    assert ask(pages, "/saidno")[0] == 200, "no page, so it is the metrics'"
