"""What every backend of the autoscaler promises, on real processes and a real database.

A backend joins with a ``Place``: how it is made, what runs there, and how something there dies or takes its time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.autoscaler.backends import local as backends_local
from penstock.autoscaler.backends.base import Backend, Realised
from penstock.autoscaler.backends.local import Local
from penstock.processes.agreed import SLOT_FENCE
from penstock.processes.warm import Warm
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Elastic, NewSlot, Slot
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import T0, lead
from tests.fixtures.worker import wait_for

SCRIPT = Path(__file__).parent.parent / "fixtures" / "slotworker.py"


class Place(ABC):
    """One place where workers run, and what a test may do there."""

    backend: Backend

    @abstractmethod
    def make(self) -> Backend:
        """A backend as a new autoscaler has it."""

    @abstractmethod
    def running(self) -> list[str]:
        """The slots of what runs there and is up, one for each."""

    @abstractmethod
    def starts(self, slot: str) -> int:
        """How many came up for a slot, ever."""

    @abstractmethod
    def asked(self, slot: str) -> bool:
        """Whether what runs for a slot was asked to drain."""

    @abstractmethod
    def kill(self, slot: str) -> None:
        """What runs for a slot dies, from one moment to the next."""

    @abstractmethod
    def hold(self, on: bool) -> None:
        """What is asked to drain has something to finish, until this is taken back."""

    @abstractmethod
    def crash(self, on: bool) -> None:
        """What is started from now on does not come up, until this is taken back."""

    @abstractmethod
    def close(self) -> None:
        """End all that is left."""


class LocalPlace(Place):
    """Processes of this machine."""

    def __init__(self, settings: Settings, elastic: Elastic, folder: Path) -> None:
        self.settings, self.elastic, self.folder = settings, elastic, folder
        self.said: list[str] = []
        self.made: list[Local] = []
        self.backend = self.make()

    def make(self, warm: Warm | None = None) -> Local:
        made = Local(
            self.settings,
            self.elastic,
            command=[sys.executable, "-S", "-E", str(SCRIPT), str(self.folder)],
            env=dict(os.environ),
            logs=self.folder,
            warm=warm,
            say=self.said.append,
        )
        self.made.append(made)
        return made

    def processes(self) -> list[tuple[str, psutil.Process]]:
        found = []
        for path in self.folder.glob("up-*"):
            _, _, rest = path.name.partition("-")
            slot, _, pid = rest.rpartition("-")
            try:
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE and str(self.folder) in process.cmdline():
                    found.append((slot, process))
            except psutil.Error:
                pass
        return found

    def running(self) -> list[str]:
        return sorted(slot for slot, _ in self.processes())

    def starts(self, slot: str) -> int:
        return len(list(self.folder.glob(f"up-{slot}-*")))

    def asked(self, slot: str) -> bool:
        return (self.folder / f"asked-{slot}").exists()

    def kill(self, slot: str) -> None:
        for of, process in self.processes():
            if of == slot:
                process.kill()

    def hold(self, on: bool) -> None:
        self._mark("hold", on)

    def crash(self, on: bool) -> None:
        self._mark("crash", on)

    def _mark(self, name: str, on: bool) -> None:
        if on:
            (self.folder / name).write_text("3")
        else:
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        for made in self.made:
            made.kill_all()  # some have not come far enough to be seen below
            made.close()
        for _, process in self.processes():
            process.kill()


class KubernetesPlace(Place):
    """Pods of a served cluster, on a node whose pods are processes of this machine."""

    def __init__(self, settings: Settings, elastic: Elastic, folder: Path) -> None:
        self.local = LocalPlace(settings, elastic, folder)  # looks at the processes in the same way
        for name in ("aiohttp", "kubernetes_validate", "lightkube"):
            pytest.importorskip(name)
        from tests.fixtures.kubelet import Kubelet
        from tests.fixtures.kubernetes import Cluster

        self.settings, self.elastic, self.folder = settings, elastic, folder
        self.made: list[Backend] = []
        self.stack = ExitStack()
        self.cluster = self.stack.enter_context(Cluster().served())
        command = [sys.executable, "-S", "-E", str(SCRIPT), str(folder)]
        self.node = Kubelet(self.cluster, command, lambda: {slot.id: slot.state for slot in elastic.slots()})
        self.node.start()
        self.stack.callback(self.node.stop)
        self.backend = self.make()

    def make(self) -> Backend:
        from tests.fixtures.kubernetes import backend_for

        made: Backend = backend_for(self.cluster, self.elastic, self.settings)
        self.made.append(made)
        return made

    def running(self) -> list[str]:
        return self.local.running()

    def starts(self, slot: str) -> int:
        return self.local.starts(slot)

    def asked(self, slot: str) -> bool:
        return self.local.asked(slot)

    def kill(self, slot: str) -> None:
        self.local.kill(slot)

    def hold(self, on: bool) -> None:
        self.local.hold(on)

    def crash(self, on: bool) -> None:
        self.local.crash(on)

    def close(self) -> None:
        for made in self.made:
            made.close()
        self.stack.close()
        self.local.close()


PLACES: dict[str, Callable[[Settings, Elastic, Path], Place]] = {"local": LocalPlace, "kubernetes": KubernetesPlace}


@pytest.fixture(params=list(PLACES))
def place_of_workers(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Iterator[Place]:
    settings = Settings.load(home=tmp_path / "home", database_url=str(store.where), worker={"drain_s": 60.0})
    made = PLACES[request.param](settings, store.elastic, tmp_path)
    yield made
    made.close()


@pytest.fixture
def place(place_of_workers: Place) -> Place:
    return place_of_workers


class Leader:
    """The leader's side: it changes rows, has them realised, and obeys what is told of them."""

    def __init__(self, elastic: Elastic, place: Place) -> None:
        self.elastic, self.place = elastic, place
        self.term = lead(elastic, "test")

    def add(self, count: int = 1, *, pool: str = "gpu", state: str = "wanted") -> list[str]:
        new = [NewSlot(pool=pool, state=state) for _ in range(count)]
        self.elastic.change(self.term, add=new, now=T0)
        return sorted(slot.id for slot in new)

    def set(self, **states: str) -> None:
        self.elastic.change(self.term, set=states, now=T0)

    def drain(self, *ids: str) -> None:
        self.elastic.change(self.term, set=dict.fromkeys(ids, "draining"), now=T0)

    def turn(self) -> Realised:
        done = self.place.backend.realise(self.elastic.slots(), term=self.term)
        self.elastic.gone(done.gone, term=self.term)
        return done

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Turn until it is so."""
        ends = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < ends, f"waited in vain: {what}; {self.elastic.slots()}"
            self.turn()
            time.sleep(0.01)

    def row(self, id: str) -> Slot:
        found = self.elastic.slot(id)
        assert found is not None
        return found

    def comes_up(self, id: str) -> str:
        """As the worker does it: take the slot with the word that it was given, and say that it is ready."""
        row = self.row(id)
        worker = f"{id}@host:1:x"
        assert self.elastic.take(id, worker, fence=row.fence) is not None
        assert self.elastic.ready(id, worker, now=T0)
        return worker


@pytest.fixture
def leader(store: Store, place: Place) -> Leader:
    return Leader(store.elastic, place)


def test_each_slot_gets_one_worker_however_often_it_is_asked_for(leader: Leader, place: Place) -> None:
    ids = leader.add(3)
    leader.until(lambda: place.running() == ids, "all run")
    for _ in range(5):
        done = leader.turn()
        assert not done.gone and not done.stuck
    assert place.running() == ids


def test_the_row_says_what_realises_it_before_it_runs(leader: Leader, place: Place) -> None:
    [id] = leader.add()
    leader.turn()
    row = leader.row(id)
    assert row.place and row.fence, "whoever comes without this word is turned away"


def test_parked_ones_run_as_well(leader: Leader, place: Place) -> None:
    ids = leader.add(state="parked")
    leader.until(lambda: place.running() == ids, "it runs")
    leader.set(**{ids[0]: "wanted"})
    leader.turn()
    assert place.running() == ids


def test_what_drains_ends_and_its_row_with_it(leader: Leader, place: Place) -> None:
    ids = leader.add(2)
    leader.until(lambda: place.running() == ids, "all run")
    leader.drain(ids[0])
    leader.until(lambda: not leader.elastic.states([ids[0]]), "its row is gone")
    assert place.running() == ids[1:]


def test_what_is_busy_is_not_killed(leader: Leader, place: Place) -> None:
    ids = leader.add()
    leader.until(lambda: place.running() == ids, "it runs")
    place.hold(True)
    leader.drain(*ids)
    leader.until(lambda: place.asked(ids[0]), "it was asked")
    for _ in range(20):
        leader.turn()
    assert place.running() == ids and leader.elastic.states(ids) == {ids[0]: "draining"}
    place.hold(False)
    leader.until(lambda: not leader.elastic.slots(), "it has finished")


def test_what_was_never_started_is_not_started_to_drain(leader: Leader, place: Place) -> None:
    ids = leader.add()
    leader.drain(*ids)
    leader.until(lambda: not leader.elastic.slots(), "the row is gone")
    assert place.running() == []


def test_what_dies_is_started_again_with_another_word(leader: Leader, place: Place) -> None:
    [id] = leader.add()
    leader.until(lambda: place.running() == [id], "it runs")
    leader.comes_up(id)
    before = leader.row(id)
    place.kill(id)
    leader.until(lambda: leader.row(id).ready_at is None, "its row says that it is gone")
    leader.until(lambda: place.running() == [id], "it runs again")
    after = leader.row(id)
    assert after.fence != before.fence
    assert leader.elastic.take(id, "the old one", fence=before.fence) is None


def test_a_successor_goes_on_with_what_runs(leader: Leader, place: Place) -> None:
    ids = leader.add(2)
    leader.until(lambda: place.running() == ids, "all run")
    fences = [leader.row(id).fence for id in ids]
    place.backend.close()
    place.backend = place.make()
    for _ in range(3):
        leader.turn()
    assert place.running() == ids
    assert [leader.row(id).fence for id in ids] == fences
    leader.drain(ids[0])
    leader.until(lambda: place.running() == ids[1:], "it ends what it did not start")
    place.kill(ids[1])
    leader.until(lambda: leader.row(ids[1]).fence != fences[1], "and starts again what it did not start")


def test_a_deposed_leader_starts_nothing(leader: Leader, place: Place) -> None:
    """It has read the rows, was stopped, and goes on when another leads."""
    [id] = leader.add()
    stale = leader.term
    leader.term = lead(leader.elastic, "another")
    place.backend.realise(leader.elastic.slots(), term=stale)
    row = leader.row(id)
    assert row.place is None and row.fence is None
    leader.until(lambda: place.running() == [id], "its successor's runs")
    assert place.starts(id) == 1


def test_a_deposed_leader_ends_nothing_that_is_wanted(leader: Leader, place: Place) -> None:
    """Rows that it has read before are as the ones after them: what drains is never wanted again."""
    ids = leader.add()
    leader.until(lambda: place.running() == ids, "it runs")
    read = leader.elastic.slots()
    stale = leader.term
    leader.term = lead(leader.elastic, "another")
    place.backend.realise(read, term=stale)
    leader.turn()
    assert place.running() == ids


def test_a_crash_loop_is_backed_off_and_told(leader: Leader, place: Place) -> None:
    place.crash(True)
    ids = leader.add(3)
    stuck: dict[str, str] = {}

    def looping() -> bool:
        stuck.update(leader.turn().stuck)
        return any("CrashLoop" in reason for reason in stuck.values())

    leader.until(looping, "it is told")
    assert set(stuck) <= set(ids)
    place.crash(False)
    leader.until(lambda: place.running() == ids, "they come up when the cause is gone")
    for id in ids:
        leader.comes_up(id)
    assert leader.turn().stuck == {}


# Processes of this machine ------------------------------------------------------------------------------------------


on_this_machine = pytest.mark.parametrize("place_of_workers", ["local"], indirect=True)


@pytest.fixture
def local(place: Place) -> LocalPlace:
    assert isinstance(place, LocalPlace)
    return place


@on_this_machine
def test_names_and_places_are_each_a_workers_own(leader: Leader, local: LocalPlace) -> None:
    ids = [*leader.add(2, pool="cpu"), *leader.add(1, pool="gpu")]
    leader.until(lambda: len(local.running()) == 3, "all run")
    words = sorted(path.read_text().split() for path in local.folder.glob("up-*"))
    names = sorted(each[each.index("--name") + 1] for each in words)
    assert names == ["worker-cpu-1", "worker-cpu-2", "worker-gpu-1"]
    assert sorted((leader.row(id).place or {})["place"] for id in ids) == [1, 2, 3]
    assert {path.name for path in local.folder.glob("*.log")} == {f"{name}.log" for name in names}


@on_this_machine
def test_a_name_is_used_again_when_it_is_free(leader: Leader, local: LocalPlace) -> None:
    first, second = leader.add(2)
    leader.until(lambda: local.running() == [first, second], "all run")
    names = {(leader.row(id).place or {})["number"]: id for id in (first, second)}
    leader.drain(names[1])
    leader.until(lambda: len(leader.elastic.slots()) == 1, "one is gone")
    [third] = leader.add()
    leader.until(lambda: third in local.running(), "another runs")
    assert (leader.row(third).place or {})["number"] == 1


@on_this_machine
def test_who_follows_forgets_its_processes_that_end_and_changes_no_row(leader: Leader, local: LocalPlace) -> None:
    kept, gone = ids = leader.add(2)
    leader.until(lambda: local.running() == ids, "both run")
    before, backend = leader.elastic.slots(), local.made[0]
    lead(leader.elastic, "another")
    local.kill(gone)

    def left() -> list[str]:
        backend.follow()
        return [running.slot for running in backend.running]

    wait_for(lambda: left() == [kept], what="one of two processes to be forgotten")
    assert leader.elastic.slots() == before, "the row is for who leads"


@on_this_machine
def test_what_a_predecessor_did_not_live_to_write_down_is_found(leader: Leader, local: LocalPlace) -> None:
    """It was killed between the start of the process and the word about it."""
    [id] = leader.add()
    assert leader.elastic.place(id, {"host": os.uname().nodename, "number": 1, "place": 1}, term=leader.term, fence="f")
    command = [sys.executable, "-S", "-E", str(SCRIPT), str(local.folder), "--slot", id]
    process = subprocess.Popen(command, env={**os.environ, SLOT_FENCE: "f"})
    try:
        leader.until(lambda: local.running() == [id], "it is up")
        assert leader.row(id).fence == "f"
        leader.drain(id)
        leader.until(lambda: process.poll() is not None, "it is ended")
    finally:
        process.kill()
        process.wait()


@on_this_machine
def test_what_was_announced_and_never_started_is_started_anew(leader: Leader, local: LocalPlace) -> None:
    [id] = leader.add()
    assert leader.elastic.place(id, {"host": os.uname().nodename, "number": 1, "place": 1}, term=leader.term, fence="f")
    leader.until(lambda: local.running() == [id], "it runs")
    assert leader.row(id).fence != "f"


@on_this_machine
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_what_workers_are_forked_from_is_there_again_before_the_next_one_starts(
    leader: Leader, local: LocalPlace
) -> None:
    """It has died, and no worker is wanted meanwhile: the next one would be started cold."""
    warm = Warm([], env=dict(os.environ), log=local.folder / "zygote.log", say=local.said.append)
    local.backend = local.make(warm)
    [id] = leader.add()
    leader.until(lambda: local.running() == [id], "it runs")
    assert warm.pid is None, "the first one has the machine for itself"
    leader.comes_up(id)
    leader.until(lambda: warm.pid is not None, "there is what the next one is forked from")
    before = warm.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    leader.until(lambda: warm.pid not in (None, before), "there is another")


@on_this_machine
def test_another_machines_workers_are_left_to_it(leader: Leader, local: LocalPlace) -> None:
    [id] = leader.add()
    assert leader.elastic.place(id, {"host": "elsewhere", "pid": 1, "born_at": 1.0}, term=leader.term, fence="f")
    assert not leader.turn().gone
    assert local.running() == [] and leader.row(id).fence == "f"


@on_this_machine
def test_what_a_machine_that_is_gone_has_left_is_started_here(
    leader: Leader, local: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was made anew has another name: what it had placed under the old one is not lost for ever."""
    wanted, held, drains, begins = leader.add(4)
    for id in (wanted, held, drains):
        assert leader.elastic.place(id, {"host": "old", "pid": 7, "born_at": 1.0}, term=leader.term, fence="f")
    leader.comes_up(held)
    leader.drain(drains)
    leader.until(lambda: local.running() == [begins], "what has no place is started here")
    assert leader.row(wanted).fence == "f", "who takes no slot at once may still come"
    monkeypatch.setattr(backends_local, "ELSEWHERE_S", 0.05)
    leader.until(lambda: local.running() == sorted([wanted, begins]), "what nobody has is started here")
    assert leader.elastic.slot(drains) is None
    assert leader.row(held).fence == "f", "who has it, has it"
    assert leader.elastic.take(wanted, "late@old:7:x", fence="f") is None, "the old word is none any more"


@on_this_machine
def test_what_does_not_end_in_its_grace_is_killed(leader: Leader, local: LocalPlace) -> None:
    ids = leader.add()
    leader.until(lambda: local.running() == ids, "it runs")
    for running in local.made[0].running:
        running.grace_s = 0.05
    local.hold(True)
    leader.drain(*ids)
    leader.until(lambda: not leader.elastic.slots(), "its row is gone")
    assert local.running() == []


@on_this_machine
def test_a_worker_is_asked_once(leader: Leader, local: LocalPlace, tmp_path: Path) -> None:
    """A second signal is another word: a successor that finds it draining sends none."""
    ids = leader.add()
    leader.until(lambda: local.running() == ids, "it runs")
    local.hold(True)
    leader.drain(*ids)
    leader.turn()
    assert (leader.row(ids[0]).place or {})["asked"] is True
    local.backend = successor = local.make()
    leader.turn()
    assert [running.asked for running in successor.running] == [True]
    [(_, process)] = local.processes()
    local.hold(False)
    leader.until(lambda: not process.is_running(), "it ends by the first")


@on_this_machine
def test_a_death_is_told_with_its_last_words(leader: Leader, local: LocalPlace) -> None:
    local.crash(True)
    leader.add()
    leader.until(lambda: local.said, "it is told")
    assert local.said[0].startswith("worker-gpu-1 ended with status 3; starting it again in 0.5 s (log: ")
    stuck = list(leader.turn().stuck.values())
    assert stuck == ["died, and is started again: this one does not come up (fix: mend it)"]


@on_this_machine
def test_a_log_that_cannot_be_written_is_told_and_keeps_nothing_else_from_being_done(
    leader: Leader, local: LocalPlace, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is to be")
    local.backend = broken = local.make()
    broken._logs = blocked / "logs"
    other, one = leader.add(pool="cpu")[0], leader.add(pool="gpu")[0]
    done = leader.turn()
    assert set(done.stuck) == {one, other} and "could not be started" in done.stuck[one]
    leader.drain(other)
    leader.until(lambda: leader.elastic.slot(other) is None, "the other is ended all the same")
    broken._logs = local.folder
    leader.until(lambda: local.running() == [one], "it is started when it can be")


@on_this_machine
def test_a_number_that_is_another_processes_by_now_is_not_touched(leader: Leader, local: LocalPlace) -> None:
    [id] = leader.add()
    ours = os.getpid()
    place = {"host": os.uname().nodename, "pid": ours, "born_at": 1.0, "number": 1, "place": 1}
    assert leader.elastic.place(id, place, term=leader.term, fence="f")
    before = signal.getsignal(signal.SIGTERM)
    leader.drain(id)
    leader.until(lambda: not leader.elastic.slots(), "the row is gone")
    assert signal.getsignal(signal.SIGTERM) is before
