"""``penstock worker``: its supervisor hears signals at any moment and does not wait for ever."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request

import psutil
import pytest

from tests.fixtures.cli import QUICK, Penstock
from tests.fixtures.patience import PATIENCE_S

ENDLESS = (
    "import threading\nfrom pathlib import Path\nfrom penstock import Model\n"
    "class Endless(Model):\n"
    "    name = 'endless'\n"
    "    def load(self, device):\n"
    "        Path('loading').touch()\n"
    "        threading.Event().wait()\n"
    "    def predict(self, batch: list[int]) -> list[int]: return batch\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_while_a_model_loads_for_ever(up: Penstock, number: signal.Signals) -> None:
    (up.folder / "loading").unlink(missing_ok=True)
    (up.folder / "endless.py").write_text(ENDLESS)
    env = QUICK | {"PENSTOCK_WORKER__DRAIN_S": "0.1"}
    running = up.start("worker", "endless", "--name", "endless", env=env)
    try:
        ends = time.monotonic() + 60
        while not (up.folder / "loading").exists():
            assert time.monotonic() < ends and running.process.poll() is None, running.text
            time.sleep(0.02)
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert family
        running.stop(number, timeout_s=30)
        assert not any(process.is_running() for process in family)
    finally:
        running.close()


def test_a_second_worker_serves_beside_the_first_and_drains(up: Penstock) -> None:
    running = up.start("worker", "my_models", "--name", "second", "--model", "double")
    try:
        running.says("worker ready")
        served = {model["name"]: len(model["workers"]) for model in up("model", "list", "--json").jsonl()}
        assert (served["double"], served["moody"]) == (2, 1)
        assert running.stop(signal.SIGTERM) == 0, running.text
        served = {model["name"]: len(model["workers"]) for model in up("model", "list", "--json").jsonl()}
        assert served["double"] == 1, "its lease ended with it"
    finally:
        running.close()


def test_a_pool_says_how_many_threads_its_libraries_start(up: Penstock) -> None:
    (up.folder / "threads.py").write_text(
        "import os\nimport penstock\n"
        "@penstock.model\n"
        "def threads(batch: list[int]) -> list[str]: return [os.environ['OMP_NUM_THREADS']] * len(batch)\n"
    )
    env = {"PENSTOCK_POOLS": json.dumps({"narrow": {"models": ["threads"], "threads": 3}})}
    running = up.start("worker", "threads", "--pool", "narrow", env=env)
    try:
        running.says("worker ready")
        assert up("run", "threads", "1").json() == "3"
        assert running.stop(signal.SIGTERM) == 0, running.text
    finally:
        running.close()


def test_models_move_between_pools_by_settings_alone(up: Penstock) -> None:
    env = {"PENSTOCK_POOLS": json.dumps({"other": {"models": ["double", "dubble"], "device": "cpu"}})}
    running = up.start("worker", "my_models", "--pool", "other", env=env)
    try:
        said = json.loads(running.says("worker ready"))
        assert said["models"] == ["double"] and said["device"] == "cpu"
        pools = {model["name"]: model["pool"] for model in up("model", "list", "--json", env=env).jsonl()}
        assert (pools["double"], pools["moody"]) == ("other", "default")
        assert up("model", "show", "double", "--json", env=env).json()["pool"] == "other"
        told = [found for found in up("doctor", "--json", env=env).json()["findings"] if found["name"] == "pools"]
        assert any("'dubble'" in found["detail"] and "'double'" in found["fix"] for found in told)
        assert any("double" in found["detail"] and "put it into other" in found["detail"] for found in told)
        assert running.stop(signal.SIGTERM) == 0, running.text
    finally:
        running.close()


@pytest.mark.parametrize("alone", [(), ("--no-supervisor",)])
def test_a_worker_whose_slot_is_not_there_ends_with_0(up: Penstock, alone: tuple[str, ...]) -> None:
    ended = up("worker", "my_models", "--slot", "none", *alone)
    assert ended.status == 0, ended.err
    assert "there is no slot for this worker" in ended.err + ended.out
    assert "worker ready" not in ended.err + ended.out


def test_nothing_to_serve(up: Penstock) -> None:
    ended = up("worker", "my_models", "--pool", "gpu")
    assert ended.status != 0 and "no model to serve in pool 'gpu'" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("service", [("dispatcher",), ("worker", "my_models", "--name", "metered")])
def test_metrics_are_served_on_the_port_that_is_named(up: Penstock, service: tuple[str, ...]) -> None:
    running = up.start(*service, "--metrics-port", "0")
    try:
        url = json.loads(running.says("metrics are served"))["url"]
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            assert b"process_cpu_seconds_total" in answer.read()
        assert running.stop(signal.SIGTERM) == 0, running.text
    finally:
        running.close()


@pytest.mark.parametrize("service", [("dispatcher",), ("worker", "my_models", "--name", "metered")])
def test_a_metrics_port_that_is_taken_is_one_clear_error(up: Penstock, service: tuple[str, ...]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ended = up(*service, "--metrics-port", str(other.getsockname()[1]))
    assert ended.status not in (0, 70)
    assert "metrics cannot be served" in ended.err and "Address already in use" in ended.err
    assert "fix: give each process of this machine a port of its own" in ended.err
    assert "Traceback" not in ended.err
