"""KEDA's protocol over real gRPC, and ``/desired`` over real HTTP, of a board that the test writes to."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from penstock.autoscaler.front.board import Board, Standing
from penstock.autoscaler.front.gauges import samples
from penstock.autoscaler.front.pages import PATH, pages
from penstock.autoscaler.front.scaler import POOL, TARGET, Scaler
from penstock.errors import ConfigError
from penstock.policy.scaling import Context, Fleet, Load, Terms, decide, kind_of
from penstock.poolsettings import PushSettings
from penstock.settings import MetricsSettings
from penstock.telemetry.exposition import Endpoint
from tests.fixtures.certificate import certificate_of
from tests.fixtures.keda import Keda
from tests.fixtures.patience import PATIENCE_S

STALE_S = 30.0
PAGE = Path(__file__).parents[2] / "docs" / "external-scaling.md"


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(stale_s=STALE_S, now_mono=clock)


@pytest.fixture
def scaler(board: Board) -> Iterator[Scaler]:
    scaler = Scaler(PushSettings(port=0), board, ("named",))
    scaler.start()
    yield scaler
    scaler.stop()


@pytest.fixture
def keda(scaler: Scaler) -> Iterator[Keda]:
    keda = Keda(scaler.address)
    yield keda
    keda.close()


@pytest.fixture
def ask(board: Board) -> Iterator[Callable[[str], tuple[int, Any]]]:
    """``GET`` of the endpoint: status, and JSON or text."""
    endpoint = Endpoint(MetricsSettings(port=0), lambda: samples(board), pages=pages(board, ("named",)))
    endpoint.start()

    def get(path: str) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(endpoint.address, timeout=PATIENCE_S)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text

    yield get
    endpoint.stop()


def standing(clock: Clock, desired: int, **fields: Any) -> Standing:
    return Standing(desired=desired, at=clock.now, **fields)


class Stream:
    """What KEDA hears on a stream, and how it ended."""

    def __init__(self, keda: Keda, pool: str) -> None:
        self.said: queue.Queue[bool | grpc.RpcError | None] = queue.Queue()
        self._call = keda.stub.StreamIsActive(keda.ref(pool))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self.said.put(event.result)
            self.said.put(None)
        except grpc.RpcError as error:
            self.said.put(error)

    def next(self) -> bool | grpc.RpcError | None:
        return self.said.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self._call.cancel()
        self._thread.join(PATIENCE_S)


def test_the_examples_of_the_page_ask_what_is_answered() -> None:
    """The blocks of ``docs/external-scaling.md``: keys of metadata, path and place of the number."""
    text = PAGE.read_text()
    (whole, part) = (
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    )
    (push,), (api,) = whole["spec"]["triggers"], part["triggers"]
    assert push["type"] == "external-push" and POOL in push["metadata"]
    assert urlsplit(api["metadata"]["url"]).path == f"{PATH}/{push['metadata'][POOL]}"
    assert api["metadata"]["valueLocation"] == "desired" and api["metadata"]["targetValue"] == str(TARGET)
    assert "fallback" not in whole["spec"]


# gRPC ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("desired", [0, 1, 7, 300])
def test_keda_gets_the_desired_workers_with_a_target_of_one(
    board: Board, keda: Keda, clock: Clock, desired: int
) -> None:
    board.post({"gpu": standing(clock, desired)})
    assert keda.metrics("gpu", timeout_s=PATIENCE_S) == desired
    assert keda.stub.IsActive(keda.ref("gpu"), timeout=PATIENCE_S).result is (desired > 0)


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_a_bad_pool_is_an_error_that_names_the_others(board: Board, keda: Keda, clock: Clock) -> None:
    board.post({"gpu": standing(clock, 1)})
    for pool, code, words in (
        ("gpus", grpc.StatusCode.NOT_FOUND, "there are: gpu, named"),
        ("x" * 10_000, grpc.StatusCode.NOT_FOUND, "there are: gpu, named"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "ml/workers names no pool"),
        (None, grpc.StatusCode.INVALID_ARGUMENT, "ml/workers names no pool"),
    ):
        ref = keda.ref(pool)
        request = keda.messages.GetMetricsRequest(scaledObjectRef=ref, metricName="x")
        for call in (
            lambda ref=ref: keda.stub.IsActive(ref, timeout=PATIENCE_S),
            lambda ref=ref: keda.stub.GetMetricSpec(ref, timeout=PATIENCE_S),
            lambda ref=ref: list(keda.stub.StreamIsActive(ref, timeout=PATIENCE_S)),
            lambda request=request: keda.stub.GetMetrics(request, timeout=PATIENCE_S),
        ):
            found, said = refused(call)
            assert found is code and words in said and len(said) < 400


def test_unknown_is_not_zero(board: Board, keda: Keda, clock: Clock) -> None:
    """Nothing decided yet, or too long ago: KEDA is told of an error, and leaves the workers as they are."""

    def asked(pool: str) -> list[tuple[grpc.StatusCode, str]]:
        request = keda.messages.GetMetricsRequest(scaledObjectRef=keda.ref(pool), metricName="x")
        return [
            refused(lambda: keda.stub.IsActive(keda.ref(pool), timeout=PATIENCE_S)),
            refused(lambda: keda.stub.GetMetrics(request, timeout=PATIENCE_S)),
        ]

    assert {code for code, _ in asked("gpu")} == {grpc.StatusCode.UNAVAILABLE}, "no pool is known yet"
    board.post({"gpu": standing(clock, 4)})
    assert {code for code, _ in asked("named")} == {grpc.StatusCode.UNAVAILABLE}, "in the settings, and not decided"
    clock.now += STALE_S + 1
    for code, said in asked("gpu"):
        assert code is grpc.StatusCode.UNAVAILABLE and "31 s old" in said
    assert keda.stub.GetMetricSpec(keda.ref("gpu"), timeout=PATIENCE_S).metricSpecs, "of that an HPA is made"
    board.post({"gpu": standing(clock, 4)})
    assert keda.metrics("gpu", timeout_s=PATIENCE_S) == 4


def test_a_stream_tells_each_change_once_and_a_ring_at_once(
    board: Board, scaler: Scaler, keda: Keda, clock: Clock
) -> None:
    board.post({"gpu": standing(clock, 2), "cpu": standing(clock, 0)})
    gpu, cpu = Stream(keda, "gpu"), Stream(keda, "cpu")
    try:
        assert (gpu.next(), cpu.next()) == (True, False), "at once, as it is now"
        board.post({"gpu": standing(clock, 3), "cpu": standing(clock, 0)})
        board.ring("cpu")
        assert cpu.next() is True
        assert keda.metrics("cpu", timeout_s=PATIENCE_S) == 1, "the ring is a worker until it is decided"
        board.post({"gpu": standing(clock, 0), "cpu": standing(clock, 1)})
        assert gpu.next() is False
        clock.now += STALE_S + 1  # nobody knows: nothing is said
        board.post({"gpu": standing(clock, 1), "cpu": standing(clock, 0)})
        assert (gpu.next(), cpu.next()) == (True, False)
        scaler.stop()
        assert (gpu.next(), cpu.next()) == (None, None), "an end, and no error: KEDA comes again soon"
    finally:
        gpu.close()
        cpu.close()


def test_a_ring_is_forgotten_when_no_decision_follows(board: Board, keda: Keda, clock: Clock) -> None:
    board.post({"gpu": standing(clock, 0)})
    stream = Stream(keda, "gpu")
    try:
        assert stream.next() is False
        board.ring("gpu")
        assert stream.next() is True
        clock.now += 6  # no post and no ring: the stream looks by itself
        assert stream.next() is False
    finally:
        stream.close()


def test_streams_that_are_gone_are_not_kept(board: Board, scaler: Scaler, keda: Keda, clock: Clock) -> None:
    board.post({"gpu": standing(clock, 0)})
    for _ in range(20):
        stream = Stream(keda, "gpu")
        assert stream.next() is False
        stream.close()
    last = Stream(keda, "gpu")
    assert last.next() is False
    last.close()
    with_all = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if not scaler._streams:
            break
        with_all.wait(0.01)
    assert not scaler._streams


def test_what_is_no_message_is_refused(board: Board, keda: Keda, clock: Clock) -> None:
    board.post({"gpu": standing(clock, 0)})
    for method in ("IsActive", "GetMetricSpec", "GetMetrics"):
        call = keda.channel.unary_unary(f"/externalscaler.ExternalScaler/{method}")
        code, said = refused(lambda call=call: call(b"\x0a\x05ab", timeout=PATIENCE_S))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "cannot be read" in said
        code, _ = refused(lambda call=call: call(b"\x0a" + bytes(1_000_000), timeout=PATIENCE_S))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_this_protocol_has_besides_is_not_implemented(keda: Keda) -> None:
    """KEDA falls back from ``StreamMetricSpec`` on this very status."""
    code, _ = refused(lambda: list(keda.stub.StreamMetricSpec(keda.ref("gpu"), timeout=PATIENCE_S)))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_an_error_with_a_fix(scaler: Scaler, board: Board) -> None:
    port = int(scaler.address.rpartition(":")[2])
    with pytest.raises(ConfigError) as caught:
        Scaler(PushSettings(port=port), board, ()).start()
    assert str(port) in caught.value.message and "PENSTOCK_AUTOSCALER__PUSH__PORT" in caught.value.fix


def test_without_a_port_nothing_is_served_or_imported() -> None:
    code = (
        "import sys; from penstock.autoscaler.front.scaler import *; from penstock.autoscaler.front.board import Board;"
        "s = Scaler(PushSettings(), Board(stale_s=1), ()); s.start(); s.stop(); print('grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "False", done.stderr


def test_tls_with_certificates_of_clients(board: Board, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    certificate, key = certificate_of("localhost", tmp_path / "server")
    client_certificate, client_key = certificate_of("keda", tmp_path / "client")
    settings = PushSettings(port=0, certificate=str(certificate), key=str(key), client_ca=str(client_certificate))
    scaler = Scaler(settings, board, ())
    scaler.start()
    board.post({"gpu": standing(clock, 3)})
    address = scaler.address.replace("127.0.0.1", "localhost")
    known = grpc.ssl_channel_credentials(
        certificate.read_bytes(), client_key.read_bytes(), client_certificate.read_bytes()
    )
    try:
        for credentials, served in (
            (known, True),
            (grpc.ssl_channel_credentials(certificate.read_bytes()), False),
            (None, False),
        ):
            with contextlib.closing(Keda(address, credentials)) as keda:
                if served:
                    assert keda.metrics("gpu", timeout_s=PATIENCE_S) == 3
                else:
                    assert refused(lambda keda=keda: keda.metrics("gpu", timeout_s=PATIENCE_S))[0] in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                    )
    finally:
        scaler.stop()


def test_a_certificate_that_cannot_be_read_is_an_error_with_a_fix(board: Board, tmp_path: Path) -> None:
    away = str(tmp_path / "none.pem")
    with pytest.raises(ConfigError) as caught:
        Scaler(PushSettings(port=0, certificate=away, key=away), board, ()).start()
    assert away in caught.value.message and "PEM" in caught.value.fix


@pytest.mark.parametrize("wrong", [{"certificate": "a"}, {"key": "a"}, {"client_ca": "a"}])
def test_half_of_tls_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="certificate and key"):
        PushSettings(**wrong)


# HTTP ---------------------------------------------------------------------------------------------------------------


def test_the_page_has_a_number_where_keda_looks_for_it(
    board: Board, ask: Callable[[str], tuple[int, Any]], clock: Clock
) -> None:
    fleet = Fleet(ready=2, starting=1, draining=1)
    board.post({"gpu": standing(clock, 3, fleet=fleet, load_at=clock.now - 2, code="panic", reason="a burst")})
    clock.now += 1.5
    status, said = ask("/desired/gpu")
    assert status == 200
    assert said == {
        "pool": "gpu", "desired": 3, "ready": 2, "starting": 1, "parked": 0, "draining": 1,
        "decided_s_ago": 1.5, "load_seen_s_ago": 3.5, "code": "panic", "reason": "a burst",
    }  # fmt: skip
    status, said = ask("/desired")
    assert status == 200 and said["pools"]["gpu"]["desired"] == 3
    assert "desired" not in said["pools"]["named"] and said["pools"]["named"]["unknown"]


def test_the_page_does_not_say_what_a_worker_has_said_last(
    board: Board, ask: Callable[[str], tuple[int, Any]], clock: Clock
) -> None:
    """Whoever asks has shown no password."""
    stuck = "CrashLoop: died 3 times in a row: ValueError: no such password: hunter2"
    context = Context(
        now=1.0,
        terms=Terms(least=1, most=2, target_s={}),
        load=Load(at=1.0, demand=0.0, backlog_s={}),
        fleet=Fleet(stuck=stuck),
    )
    decision = decide(context)
    board.post({"gpu": standing(clock, 1, fleet=context.fleet, code=decision.code, reason=decision.reason)})
    for path in ("/desired", "/desired/gpu", "/metrics"):
        said = json.dumps(ask(path)[1])
        assert "hunter2" not in said and "ValueError" not in said
    said = ask("/desired/gpu")[1]
    assert said["stuck"] == "CrashLoop" and "others do not come up" in said["reason"]


@pytest.mark.parametrize(
    ("stuck", "kind"),
    [
        ("CrashLoop: died 3 times in a row: x", "CrashLoop"),
        ("Unschedulable: 0/3 nodes", "Unschedulable"),
        ("died, and is started again: ValueError: x", ""),
        ("wanted, and not there yet: whatever", ""),
        ("", ""),
    ],
)
def test_why_workers_do_not_come_up_has_a_kind(stuck: str, kind: str) -> None:
    assert kind_of(stuck) == kind


def test_over_http_unknown_is_an_error_too(board: Board, ask: Callable[[str], tuple[int, Any]], clock: Clock) -> None:
    assert ask("/desired/gpu")[0] == 503, "before anything was posted any pool may exist"
    board.post({"gpu": standing(clock, 0)})
    assert ask("/desired/gpu") == (200, {"pool": "gpu", "desired": 0, "decided_s_ago": 0.0})
    assert ask("/desired/named")[0] == 503
    status, said = ask("/desired/gpus")
    assert status == 404 and said["pools"] == ["gpu", "named"]
    clock.now += STALE_S + 1
    status, said = ask("/desired/gpu")
    assert status == 503 and "desired" not in said and "31 s old" in said["unknown"]
    board.post({"gpu": Standing(desired=1, at=float("-inf"))})
    assert ask("/desired/gpu")[0] == 503


@pytest.mark.parametrize("name", ["%00", "..%2f..%2fetc", "%ff%fe", "x" * 5000])
def test_strange_names_are_no_pools(
    board: Board, ask: Callable[[str], tuple[int, Any]], clock: Clock, name: str
) -> None:
    board.post({"gpu": standing(clock, 0)})
    status, said = ask(f"/desired/{name}")
    assert status == 404 and len(json.dumps(said)) < 1000


def test_gauges_tell_what_is_known_and_nothing_else(
    board: Board, ask: Callable[[str], tuple[int, Any]], clock: Clock
) -> None:
    def read() -> dict[tuple[str, str], float]:
        return {
            (s.name, ",".join(s.labels.values())): s.value
            for family in text_string_to_metric_families(ask("/metrics")[1])
            for s in family.samples
            if s.name.startswith("penstock_")
        }

    assert read() == {("penstock_autoscaler_leads", ""): 0}
    board.leads = True
    board.post({"gpu": standing(clock, 3, fleet=Fleet(ready=2, starting=1), load_at=clock.now - 2)})
    assert read() == {
        ("penstock_autoscaler_leads", ""): 1,
        ("penstock_desired_workers", "gpu"): 3,
        ("penstock_workers", "gpu,ready"): 2,
        ("penstock_workers", "gpu,starting"): 1,
        ("penstock_workers", "gpu,parked"): 0,
        ("penstock_workers", "gpu,draining"): 0,
        ("penstock_load_age_seconds", "gpu"): 2,
        ("penstock_decision_age_seconds", "gpu"): 0,
    }
    clock.now += STALE_S + 1
    assert read() == {
        ("penstock_autoscaler_leads", ""): 1,
        ("penstock_load_age_seconds", "gpu"): STALE_S + 3,
        ("penstock_decision_age_seconds", "gpu"): STALE_S + 1,
    }
