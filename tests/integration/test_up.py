"""``penstock up``: starts, is ready, survives crashes, stops, and is found by a second one."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock import Client
from penstock.settings import Settings
from penstock_cli.up import AlreadyRunning, Stack
from tests.fixtures.cli import QUICK, MakePenstock, Penstock, Running
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """Wait for a condition; its value."""
    ends = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < ends, f"waited in vain: {what}"
        time.sleep(0.02)
    return value


def state_of(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "run" / "up.json").read_text())
    return found


def family(home: Path) -> dict[str, psutil.Process]:
    """The processes of the stack in ``home`` by name, the workers' own children among them."""
    found = {}
    for child in state_of(home)["children"]:
        with suppress(psutil.NoSuchProcess):  # it is just being replaced
            process = psutil.Process(child["pid"])
            found[child["name"]] = process
            for number, below in enumerate(process.children(recursive=True)):
                found[f"{child['name']}/{number}"] = below
    return found


def gone(processes: list[psutil.Process]) -> bool:
    def dead(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(dead(process) for process in processes)


@pytest.fixture
def running(make_penstock: MakePenstock) -> Iterator[tuple[Penstock, Running]]:
    with _started(make_penstock(QUICK), "my_models", "--no-dashboard") as found:
        yield found
        found[1].stop()


@pytest.fixture(scope="module")
def lasting(make_penstock: MakePenstock) -> Iterator[tuple[Penstock, Running]]:
    """One for all tests after which it runs on: with a pipeline, a function in its pool, and the dashboard."""
    penstock = make_penstock(QUICK)
    (penstock.folder / "my_pipelines.py").write_text(
        "import penstock\nfrom my_models import Double\n"
        "@penstock.step\ndef add(x: int) -> int: return x + 1\n"
        "@penstock.pipeline\ndef answer(x: int): return add(Double(x))\n"
    )
    with _started(penstock, "my_models", "my_pipelines", "--port", str(free_port())) as found:
        yield found
        assert found[1].stop() == 0


@contextmanager
def _started(penstock: Penstock, *args: str) -> Iterator[tuple[Penstock, Running]]:
    running = penstock.start("up", *args)
    try:
        running.says("Try, in another terminal")
        yield penstock, running
    finally:
        running.close()


def test_it_prints_the_next_command_which_works(lasting: tuple[Penstock, Running]) -> None:
    penstock, process = lasting
    command = next(line for line in process.lines if line.strip().startswith("penstock run"))
    assert str(penstock.home) in command
    ended = penstock(*command.split()[1:], env={"PENSTOCK_HOME": "/nonexistent"})
    assert ended.json() == 42


def test_ctrl_c_stops_everything_and_says_so(running: tuple[Penstock, Running]) -> None:
    penstock, process = running
    processes = list(family(penstock.home).values())
    assert len(processes) >= 4, "broker, dispatcher, worker and its supervisor"
    assert process.stop(signal.SIGINT) == 0
    assert process.lines[-1] == "stopped"
    assert gone(processes)
    assert not (penstock.home / "run" / "up.json").exists()


def test_sigterm_drains_what_runs(running: tuple[Penstock, Running]) -> None:
    penstock, process = running
    gate = penstock.folder / "gate"
    with Client(home=penstock.home) as client:
        job = client.enqueue("slow", str(gate))
        until(lambda: job.refresh().status == "running", "the job runs")
    process.process.send_signal(signal.SIGTERM)
    process.says("stopping")
    gate.touch()
    assert process.wait() == 0
    assert penstock("job", "get", job.id, "--json").json()["status"] == "succeeded"


def test_a_second_one_finds_the_first(lasting: tuple[Penstock, Running]) -> None:
    penstock, process = lasting
    second = penstock("up", "my_models")
    assert second.status == 0
    assert f"process {process.process.pid}" in second.err
    assert "broker.sock" in second.out
    assert penstock("up", "--json").json()["pid"] == process.process.pid
    other = penstock("up", "other_models")
    assert other.status == 2 and "other_models" in other.err


@pytest.mark.parametrize("name", ["worker-default-1", "worker-default-1/0", "dispatcher", "broker"])
def test_a_child_that_dies_comes_back(lasting: tuple[Penstock, Running], name: str) -> None:
    penstock, process = lasting
    victim, heard = family(penstock.home)[name], len(process.lines)
    victim.kill()
    until(lambda: gone([victim]), "it is dead")
    if "/" in name:
        said = process.says("the process of worker-default-1", after=heard)
        assert (
            "was ended by SIGKILL" in said and "starting it again in 0.5 s" in said and "worker-default-1.log" in said
        )
    else:
        process.says("again", after=heard)
        until(lambda: family(penstock.home).get(name, victim).pid != victim.pid, "it is back")
    assert penstock("run", "double", "5", "--timeout", "30").json() == 10


#: Serves until there is a file ``die``, and then ends its process with an error, however often it is started.
MORTAL = """
import os, sys, threading, time
from pathlib import Path
from penstock import Model

class Mortal(Model):
    name = "mortal"
    def load(self, device):
        threading.Thread(target=self.live, daemon=True).start()
    def live(self):
        while not Path("die").exists(): time.sleep(0.01)
        print("ValueError: out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    def predict(self, batch: list[int]) -> list[int]: return batch
"""


def test_a_worker_that_keeps_dying_is_told_on_the_terminal(make_penstock: MakePenstock) -> None:
    """With its last error, at growing intervals; and when the cause is gone, it serves again."""
    penstock = make_penstock(QUICK)
    (penstock.folder / "mortal.py").write_text(MORTAL)
    running = penstock.start("up", "mortal", "--no-dashboard")
    try:
        running.says("Try, in another terminal")
        (penstock.folder / "die").touch()
        running.says("the 3rd time in a row; starting it again in 2 s")
        running.says("its last error: ValueError: out of luck")
        (penstock.folder / "die").unlink()
        assert penstock("run", "mortal", "5", "--timeout", "60").json() == 5
        assert running.stop() == 0, running.text
    finally:
        running.close()


def test_children_do_not_outlive_a_killed_parent(running: tuple[Penstock, Running]) -> None:
    penstock, process = running
    processes = list(family(penstock.home).values())
    process.process.kill()
    until(lambda: gone(processes), "the guardian stopped them")
    again = penstock.start("up", "my_models", "--no-dashboard")
    try:
        again.says("Try, in another terminal")
        assert penstock("run", "double", "5").json() == 10
        assert again.stop() == 0
    finally:
        again.close()


def test_orphans_of_a_killed_parent_and_guardian_are_cleared(running: tuple[Penstock, Running]) -> None:
    penstock, process = running
    processes = family(penstock.home)
    guardians = [p for p in psutil.Process(process.process.pid).children() if "guardian.py" in " ".join(p.cmdline())]
    assert len(guardians) == 1
    for each in (*guardians, process.process):
        each.kill()
    process.wait()
    assert not gone([processes["dispatcher"]])
    again = penstock.start("up", "my_models", "--no-dashboard")
    try:
        again.says("that a killed `penstock up` had left")
        again.says("Try, in another terminal")
        assert gone([processes["dispatcher"], processes["worker-default-1"]])
        assert penstock("run", "double", "5").json() == 10
        assert again.stop() == 0
    finally:
        again.close()


def test_a_model_that_does_not_load_leaves_nothing_behind(make_penstock: MakePenstock) -> None:
    penstock = make_penstock(QUICK)
    (penstock.folder / "broken.py").write_text(
        "from penstock import Model\n"
        "class Broken(Model):\n"
        "    name = 'broken'\n"
        "    def load(self, device): raise RuntimeError('no weights here')\n"
        "    def predict(self, batch: list[int]) -> list[int]: return batch\n"
    )
    ended = penstock("up", "broken", "--no-dashboard")
    assert ended.status == 1 and "no weights here" in ended.err and "worker-default-1.log" in ended.err
    assert not (penstock.home / "run" / "up.json").exists()
    assert not any(str(penstock.home) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))


def test_without_models_it_runs_and_says_how_to_go_on(penstock: Penstock) -> None:
    running = penstock.start("up", "--no-dashboard")
    try:
        running.says("no model is served")
        assert running.stop() == 0
    finally:
        running.close()


def test_it_says_what_there_is_to_run(lasting: tuple[Penstock, Running]) -> None:
    _, running = lasting
    told = dict(line.split("  ", 1) for line in running.lines if line[:1].isalpha() and "  " in line)
    assert {name: told[name].strip() for name in ("models", "functions", "pipelines")} == {
        "models": "double, moody, slow", "functions": "add", "pipelines": "answer",
    }  # fmt: skip


def test_workers_are_as_many_as_asked_for(make_penstock: MakePenstock) -> None:
    penstock = make_penstock(QUICK)
    running = penstock.start("up", "my_models", "--no-dashboard", "--workers", "2")
    try:
        running.says("Try, in another terminal")
        assert len(penstock("model", "list", "--json").jsonl()[0]["workers"]) == 2
        assert running.stop() == 0
    finally:
        running.close()


def test_models_of_a_pool_that_has_had_no_worker_can_be_asked_for(make_penstock: MakePenstock) -> None:
    penstock = make_penstock(
        {**QUICK, "PENSTOCK_POOLS": '{"default": {"min": 0, "max": 1}, "cpu": {"min": 0, "max": 1}}'}
    )
    (penstock.folder / "my_pipelines.py").write_text(
        "import penstock\nfrom my_models import Double\n@penstock.pipeline\ndef answer(x: int): return Double(x)\n"
    )
    running = penstock.start("up", "my_models", "my_pipelines", "--no-dashboard")
    try:
        running.says("Try, in another terminal")
        assert [row["workers"] for row in penstock("model", "list", "--json").jsonl()] == [[], [], []]
        refused = penstock("run", "double", '"five"')
        assert refused.status and "does not fit model 'double'" in refused.err
        assert penstock("run", "answer", '{"x": 5}').json() == 10
        assert running.stop() == 0
    finally:
        running.close()


def test_interrupted_while_it_starts(make_penstock: MakePenstock) -> None:
    penstock = make_penstock(QUICK)
    (penstock.folder / "endless.py").write_text(
        "import threading\nfrom pathlib import Path\nfrom penstock import Model\n"
        "class Endless(Model):\n"
        "    name = 'endless'\n"
        "    def load(self, device):\n"
        "        Path('loading').touch()\n"
        "        threading.Event().wait()\n"
        "    def predict(self, batch: list[int]) -> list[int]: return batch\n"
    )
    running = penstock.start("up", "endless", "--no-dashboard")
    try:
        until((penstock.folder / "loading").exists, "it loads")
        processes = list(family(penstock.home).values())
        assert running.stop(signal.SIGINT) == 130
        assert gone(processes)
    finally:
        running.close()


def test_the_dashboard_comes_with_it(lasting: tuple[Penstock, Running]) -> None:
    penstock, running = lasting
    url = state_of(penstock.home)["dashboard"]
    assert url in running.text
    with urllib.request.urlopen(f"{url}/workers", timeout=PATIENCE_S) as answer:
        assert answer.status == 200


# As a library -----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(make_penstock: MakePenstock, monkeypatch: pytest.MonkeyPatch) -> Settings:
    penstock = make_penstock()
    monkeypatch.chdir(penstock.folder)
    return Settings.load(home=penstock.home, lease={"ttl_s": 3}, worker={"drain_s": 5, "device": "cpu"})


def test_a_stack_in_a_program(settings: Settings) -> None:
    said: list[str] = []
    with Stack(settings, ["my_models"], dashboard=False, say=said.append) as stack:
        stack.wait_ready()
        assert [model.name for model in stack.models] == ["double", "moody", "slow"]
        with pytest.raises(AlreadyRunning) as caught:
            Stack(settings, dashboard=False).start()
        assert caught.value.state is not None and caught.value.state.pid == os.getpid()
        with Client(home=settings.home) as client:
            assert client.run("double", 4, result_timeout=PATIENCE_S) == 8
    stack.stop()
    assert said == []
    assert not (settings.home / "run" / "up.json").exists()


def test_one_home_after_the_other(settings: Settings) -> None:
    """A stopped stack leaves its data to the next one."""
    with Stack(settings, ["my_models"], dashboard=False) as stack:
        stack.wait_ready()
        with Client(home=settings.home) as client:
            id = client.enqueue("double", 1, delay=3600).id
    with Stack(settings, dashboard=False) as stack, Client(home=settings.home) as client:
        stack.wait_ready()
        assert client.get(id).status == "accepted"
