"""Workers that are forked from a process that has their imports and weights: each is what the command line gives."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from penstock import Client
from penstock.poolsettings import PoolSettings
from penstock.processes.agreed import DEATHS_FD
from penstock.processes.warm import Order, Warm
from penstock.settings import Settings
from penstock_cli.fleets import warm_of
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.smallzygote import KEPT
from tests.fixtures.warm import Nursery, descriptors, shared_memory
from tests.fixtures.worker import clean_environ, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can fork a process of many libraries")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What a worker does with a database is tested on both elsewhere."""
    return sqlite_url


def test_a_forked_worker_does_its_jobs_and_is_watched_as_any_other(
    nursery: Callable[..., Nursery], settings: Settings, dispatcher: object
) -> None:
    made = nursery().ready()
    told, writer = os.pipe()
    env = {**made.env, DEATHS_FD: str(writer)}
    supervisor = made.start("penstock_cli", "worker", "--name", "w", name="w", env=env, pass_fds=(writer,))
    os.close(writer)
    first = made.wait_registered("w", set())
    (worker,) = psutil.Process(supervisor).children()
    assert first.info["pid"] == worker.pid
    # A session and a group of its own, which both are in; a log of its own.
    assert os.getsid(supervisor) == os.getpgid(supervisor) == os.getsid(worker.pid) == supervisor
    with Client(settings) as client:
        assert len(client.run("rows", [1.0] * 8, timeout=PATIENCE_S)) == 2
        assert "worker ready" in made.log_of("w")
        # What dies is started again, by its supervisor, and by fork.
        worker.kill()
        second = made.wait_registered("w", {first.instance})
        assert psutil.Process(second.info["pid"]).ppid() == supervisor
        assert len(client.run("rows", [1.0] * 8, timeout=PATIENCE_S)) == 2
        # A model that does not return costs its process, and no more.
        client.enqueue("stuck", 1)
        third = made.wait_registered("w", {first.instance, second.instance})
    os.kill(supervisor, signal.SIGTERM)
    assert made.status(supervisor) == 0
    assert not psutil.pid_exists(third.info["pid"])
    with os.fdopen(told) as deaths:
        assert [json.loads(line)["status"] for line in deaths] == [-signal.SIGKILL, 75]
    assert made.said == []


@pytest.mark.usefixtures("small", "dispatcher")
def test_the_zygotes_death_leaves_its_children_alive_and_another_one_is_started(
    nursery: Callable[..., Nursery], plain_models: str, settings: Settings
) -> None:
    made = nursery(plain_models).ready()
    supervisor = made.worker("w")
    zygote = made.warm.pid
    assert zygote is not None
    watching = os.pidfd_open(supervisor)
    os.kill(zygote, signal.SIGKILL)
    with Client(settings) as client:
        assert client.run("same", 1, timeout=PATIENCE_S) == 1
    # At first cold, and said; then by fork again.
    cold = made.start("platform", name="cold")
    assert psutil.Process(cold).ppid() == os.getpid()
    assert "is started again in" in made.said[0]
    os.waitpid(cold, 0)
    wait_for(lambda: made.warm.ready(1.0), what="another zygote")
    other = made.start("platform", name="other")
    assert made.status(other) == 0
    # Whoever has a handle of the first one's child sees its end.
    os.kill(supervisor, signal.SIGTERM)
    poll = select.poll()
    poll.register(watching, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000)
    os.close(watching)


def test_siblings_draw_other_numbers_and_outlive_a_zygote_that_has_opened_nothing(
    nursery: Callable[..., Nursery], settings: Settings, dispatcher: object
) -> None:
    """And have the threads of a new process. It ends when whoever has started it does."""
    made = nursery().ready()
    zygote = psutil.Process(made.warm.pid)
    opened = descriptors(zygote.pid)
    assert [path.partition(":")[0] for path in opened if not path.endswith("rows.pt")] == ["socket"], opened
    assert zygote.num_threads() == 1
    assert "rows.pt" in Path(f"/proc/{zygote.pid}/maps").read_text()
    drawn = []
    with Client(settings) as client:
        first = made.worker("one", "--model", "draw")
        drawn.append(client.run("draw", 1, timeout=PATIENCE_S))
        os.kill(first, signal.SIGTERM)
        assert made.status(first) == 0
        second = made.worker("two", "--model", "draw")
        drawn.append(client.run("draw", 1, timeout=PATIENCE_S))
    for number in range(3):
        assert drawn[0][number] != drawn[1][number]
    new = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        capture_output=True,
        text=True,
        env=clean_environ(),
        check=True,
    )
    assert drawn[0][3] == int(new.stdout)
    made.warm.close()
    assert not zygote.is_running()
    assert psutil.pid_exists(second), "what it has forked goes on"
    # From now on cold, without a word: somebody wanted it so.
    os.waitpid(made.start("platform"), 0)
    assert made.said == []


FAULTS = {
    "a thread (lookout)": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(3600,), name='lookout', daemon=True).start()\n",
    "a connection": "import socket\nPAIR = socket.socketpair()[0]\n",
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.usefixtures("small")
def test_what_stands_in_the_way_is_named_and_workers_are_started_cold(
    nursery: Callable[..., Nursery], tmp_path: Path, what: str, plain_models: str
) -> None:
    guilty = tmp_path / "guilty.py"
    model = "@penstock.model\ndef guilty(batch: list[int]) -> list[int]:\n    return batch\n"
    guilty.write_text(f"import penstock\n{FAULTS[what]}\n{model}")
    made = nursery(plain_models, str(guilty))
    assert not made.warm.ready(PATIENCE_S)
    pids = [made.start("platform"), made.start("platform")]
    for pid in pids:
        assert psutil.Process(pid).ppid() == os.getpid()
        assert os.waitpid(pid, 0)[1] == 0
    (said,) = made.said
    assert "guilty.py' has started a thread (lookout)" in said or "guilty.py' has opened a connection" in said
    assert "started cold" in said and "in load(), not when the module is imported" in said


@pytest.mark.usefixtures("small")
def test_a_model_whose_preload_is_at_fault_is_named(nursery: Callable[..., Nursery], tmp_path: Path) -> None:
    path = tmp_path / "eager.py"
    path.write_text(
        "import threading, time\nimport penstock\n\n"
        "class Eager(penstock.Model):\n    name = 'eager'\n\n"
        "    @classmethod\n    def preload(cls):\n"
        "        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n\n"
        "    def predict(self, batch: list[int]) -> list[int]:\n        return batch\n"
    )
    made = nursery(str(path))
    began = time.monotonic()
    assert not made.warm.ready(PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S, "who has refused is not waited for"
    assert "preload() of model 'eager' has started a thread" in made.said[0]


@pytest.mark.usefixtures("small")
def test_code_that_has_changed_is_not_what_workers_are_forked_from(
    nursery: Callable[..., Nursery], plain_models: str
) -> None:
    made = nursery(plain_models).ready()
    old = made.warm.pid
    Path(plain_models).write_text(Path(plain_models).read_text() + "\n# changed\n")
    cold = made.start("platform")
    assert psutil.Process(cold).ppid() == os.getpid(), "this one is started cold"
    os.waitpid(cold, 0)
    wait_for(lambda: made.warm.ready(1.0), what="a zygote of the new code")
    assert made.warm.pid != old
    assert made.status(made.start("platform")) == 0
    assert made.said == []


TELLS = """
import os, signal, sys

def kinds():
    for number in os.listdir("/proc/self/fd"):
        try:
            yield number, os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
        except OSError:  # of the listing itself
            pass

print(sys.argv[1:], os.getcwd(), os.environ.get("MINE"), "PENSTOCK_NAMESPACE" in os.environ, __name__)
print([signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGPIPE)], signal.pthread_sigmask(0, ()))
print([kind for number, kind in kinds() if int(number) > 2 and kind in ("socket", "pipe", "anon_inode")])
what = sys.argv[1]
if what == "signal":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "raise":
    raise ValueError("raised")
if what == "text":
    sys.exit("words")
sys.exit(int(what))
"""


@pytest.mark.usefixtures("small")
def test_exit_statuses_arguments_environment_and_folder_are_those_of_a_new_process(
    nursery: Callable[..., Nursery], plain_models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told.py").write_text(TELLS)
    made = nursery(plain_models).ready()
    monkeypatch.chdir(tmp_path)
    env = {name: value for name, value in made.env.items() if name != "PENSTOCK_NAMESPACE"} | {"MINE": "ä"}
    for what, status in (("0", 0), ("3", 3), ("signal", -signal.SIGKILL), ("raise", 1), ("text", 1)):
        pid = made.start("told", what, name=f"told-{what}", env=env)
        assert made.status(pid) == status, what
    told = [f"['0'] {tmp_path} ä False __main__", "['SIG_DFL', 'SIG_IGN'] set()", "[]"]
    assert made.log_of("told-0").splitlines() == told
    assert "ValueError: raised" in made.log_of("told-raise") and "words" in made.log_of("told-text")
    # What an interpreter reads when it begins cannot be changed in one that has begun.
    cold = made.start("told", "4", env=env | {"PYTHONHASHSEED": "1"})
    assert os.waitstatus_to_exitcode(os.waitpid(cold, 0)[1]) == 4


@pytest.mark.usefixtures("small")
def test_thirty_forks_leave_nothing_behind(
    nursery: Callable[..., Nursery], plain_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEPT, "1")
    made = nursery(plain_models).ready()
    zygote = psutil.Process(made.warm.pid)
    made.status(made.start("platform"))
    ours, its, shared = descriptors(os.getpid()), descriptors(zygote.pid), shared_memory()
    pids = []
    for _ in range(30):
        pids.append(made.start("platform"))
        assert made.status(pids[-1]) == 0
    # Other tests have been here: what they left open closes, or connects again, when it will.
    assert abs(len(descriptors(os.getpid())) - len(ours)) < len(pids) / 2, "nothing for each fork"
    assert descriptors(zygote.pid) == its
    assert shared_memory() <= shared
    assert zygote.num_threads() == 1
    # Their numbers are kept for a while, so that whoever ordered them can get hold of them, and then given back.
    wait_for(lambda: not zygote.children(), what="all to be waited for")
    made.started.clear()


@pytest.mark.usefixtures("small")
def test_many_that_are_started_at_once_are_all_there(nursery: Callable[..., Nursery], plain_models: str) -> None:
    made = nursery(plain_models).ready()
    pids = [made.start("platform", name=f"many{number}") for number in range(16)]
    assert len(set(pids)) == 16
    assert [made.status(pid) for pid in pids] == [0] * 16


@pytest.mark.usefixtures("small")
def test_a_zygote_that_hangs_is_replaced_and_nothing_runs_twice(
    nursery: Callable[..., Nursery], plain_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.processes.warm.FORK_S", 0.5)
    made = nursery(plain_models).ready()
    assert made.warm.pid is not None
    os.kill(made.warm.pid, signal.SIGSTOP)
    pid = made.start("platform", name="once")
    assert psutil.Process(pid).ppid() == os.getpid()
    os.waitpid(pid, 0)
    assert made.log_of("once").count("Linux") == 1
    assert "took too long" in made.said[0]


def test_elsewhere_workers_are_started_cold_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.processes.warm.sys.platform", "darwin")
    said: list[str] = []
    warm = Warm([], env=clean_environ(), log=tmp_path / "zygote.log", say=said.append)
    for _ in range(2):
        pid = warm.start([sys.executable, "-c", ""], clean_environ(), tmp_path / "log")
        os.waitpid(pid, 0)
    assert warm.pid is None and len(said) == 1 and "only Linux" in said[0]


def test_one_that_cannot_be_started_keeps_no_worker_from_being_started(tmp_path: Path) -> None:
    said: list[str] = []
    warm = Warm([], env=clean_environ(), log=tmp_path, say=said.append)  # a folder is no log
    warm.prepare()
    pid = warm.start([sys.executable, "-c", "print('here')"], clean_environ(), tmp_path / "w.log")
    os.waitpid(pid, 0)
    assert (tmp_path / "w.log").read_text() == "here\n"
    assert len(said) == 1 and "could not be started" in said[0]
    warm.close()


@pytest.mark.parametrize(
    ("pools", "room", "warm"),
    [
        ({"fixed": PoolSettings(min=2, max=2)}, {"fixed": 2}, False),
        ({"fixed": PoolSettings(min=2, max=2), "gpu": PoolSettings(min=0, max=2)}, {"fixed": 2, "gpu": 2}, True),
        ({}, {"default": 4}, True),
        ({}, {"default": 1}, False),
        ({"gpu": PoolSettings(min=2, max=4)}, {"gpu": 1}, False),
    ],
)
def test_a_zygote_is_for_pools_whose_workers_come_and_go(
    settings: Settings, tmp_path: Path, pools: dict[str, PoolSettings], room: dict[str, int], warm: bool
) -> None:
    found = warm_of(settings.model_copy(update={"pools": pools}), room, {}, tmp_path)
    assert (found is not None) is warm


@pytest.mark.usefixtures("small")
def test_whoever_is_not_told_of_does_not_begin(
    nursery: Callable[..., Nursery], plain_models: str, tmp_path: Path
) -> None:
    """The zygote ends between the fork and its answer, as far as the other side knows."""
    made = nursery(plain_models).ready()
    warm = made.warm
    control, warm._control = warm._control, None
    assert control is not None
    marker = tmp_path / "began"
    order = Order(id=7, module="touched", argv=[str(marker)], folder=str(tmp_path), set={}, unset=[], descriptors=[])
    (tmp_path / "touched.py").write_text("import sys\nopen(sys.argv[1], 'w').close()\n")
    with Path(os.devnull).open("ab") as nothing:
        socket.send_fds(control, [msgspec.json.encode(order)], [nothing.fileno()])
    control.close()  # nobody takes the answer
    assert made.warm._process is not None
    made.warm._process.wait(PATIENCE_S)
    assert not marker.exists()
