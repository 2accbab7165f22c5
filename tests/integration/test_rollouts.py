"""Workers of this machine become another version: under load, without a gap, held up, stopped in the middle, undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import Client
from penstock.dispatch.daemon import Dispatcher
from penstock.settings import Settings
from penstock.store.elastic import Slot
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port
from tests.fixtures.versioned import write
from tests.fixtures.worker import wait_for
from tests.fixtures.zygote import Zygote
from tests.integration.test_autoscaler import Site
from tests.integration.test_probes import Probe
from tests.integration.test_versions import ended, rows

BROKEN = '''
from penstock import Model

class Which(Model):
    """Its weights are nowhere."""
    name = "which"
    version = "3"
    def load(self, device): raise RuntimeError("no weights here")
    def predict(self, batch: list[int]) -> list[str]: return ["3" for _ in batch]
'''


class Rolled(Site):
    """Two workers of version 1."""

    def rollout(self, *words: str) -> dict[str, Any]:
        """What a command of ``penstock rollout`` says."""
        found: dict[str, Any] = rows(self.settings, "rollout", *words)[0]
        return found

    def status(self) -> dict[str, Any]:
        return self.rollout("status", "default")

    def until(self, code: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(
            lambda: (told := self.status())["code"] == code and told, what=f"the rollout to be {code}"
        )
        return found

    def of(self, revision: str) -> list[Slot]:
        return [slot for slot in self.ready() if slot.spec.get("revision", "") == revision]

    @contextmanager
    def watched(self, least: int) -> Iterator[None]:
        """At every look as many workers are ready, and wanted."""
        over, seen = threading.Event(), [len(self.ready())]

        def look() -> None:
            while not over.wait(0.02):
                seen.append(len(self.ready()))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert min(seen) >= least, seen


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def site(settings: Settings, tmp_path: Path, dispatcher: Dispatcher, zygote: Zygote) -> Iterator[Rolled]:
    pool = settings.pool("default").model_copy(update={"min": 2, "max": 2})
    made = Rolled(
        settings.model_copy(
            update={
                "models": [write(tmp_path, "1")],
                "pools": {"default": pool},
                "autoscaler": settings.autoscaler.model_copy(update={"every_s": 0.2, "lease_s": 1.0}),
                "admission": settings.admission.model_copy(update={"enabled": False}),
            }
        ),
        tmp_path,
        zygote,
    )
    yield made
    made.close()


@contextmanager
def asked(settings: Settings) -> Iterator[list[str]]:
    """Somebody asks all the time, one after the other; what was answered."""
    answers: list[str] = []
    over, faults = threading.Event(), []

    def ask() -> None:
        try:
            with Client(settings) as client:
                while not over.wait(0.01):
                    answers.append(str(client.run("which", 1, result_timeout=PATIENCE_S)))
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_for(lambda: answers or faults, what="an answer")
        yield answers
    finally:
        over.set()
        thread.join()
    assert not faults, faults


def later(answers: list[str], expected: set[str]) -> None:
    """From now on these answer, and nobody else."""
    count = len(answers)
    wait_for(
        lambda: len(answers) >= count + 20 and set(answers[count + 1 :]) >= expected, what=f"answers of {expected}"
    )
    assert set(answers[count + 1 :]) == expected


def test_all_become_the_new_version_under_load_and_nobody_waits(site: Rolled, tmp_path: Path) -> None:
    site.lead()
    site.until_ready(2)
    with asked(site.settings) as answers, site.watched(2):
        site.rollout("start", "default", "two", "--module", write(tmp_path, "2"))
        wait_for(lambda: site.status()["done"], what="the rollout to end")
        wait_for(lambda: len(site.slots) == 2, what="the old ones to be gone")
        later(answers, {"2"})
    assert answers[0] == "1"
    changes = site.store.elastic.changes("default")
    assert {change.code for change in changes} >= {"rollout.start", "rollout.drain"}
    assert site.rollout("undo", "default")["revision"] == ""
    wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the way back")
    with asked(site.settings) as answers:
        later(answers, {"1"})


def test_a_canary_is_a_share_and_a_successor_goes_on(site: Rolled, tmp_path: Path) -> None:
    scaler = site.lead()
    site.until_ready(2)
    with asked(site.settings) as answers, site.watched(2):
        site.rollout("start", "default", "two", "--module", write(tmp_path, "2"), "--share", "10%")
        site.until("canary")
        assert (len(site.of("")), len(site.of("two"))) == (1, 1)
        later(answers, {"1", "2"})
        site.rollout("share", "default", "100%")
        wait_for(lambda: len(site.slots) > 2, what="the next one to be started")
        scaler.die()
        site.lead()
        wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the successor to end it")
        later(answers, {"2"})


def test_a_version_that_does_not_load_costs_nothing(site: Rolled, tmp_path: Path) -> None:
    broken = tmp_path / "which_3.py"
    broken.write_text(BROKEN)
    site.lead()
    before = {slot.id for slot in site.until_ready(2)}
    with asked(site.settings) as answers, site.watched(2):
        site.rollout("start", "default", "three", "--module", str(broken))
        told = wait_for(
            lambda: (found := site.status())["code"] == "stuck" and found, what="the broken version to be told of"
        )
        assert "the new workers do not come up, and the old ones stay" in told["reason"]
        assert "no weights here" in told["reason"], told
        site.rollout("undo", "default")
        wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the way back")
        later(answers, {"1"})
    assert {slot.id for slot in site.slots} == before


def test_the_last_one_of_a_version_stays_for_the_jobs_that_ask_for_it(site: Rolled, tmp_path: Path) -> None:
    site.lead()
    site.until_ready(2)
    with Client(site.settings) as client:
        held = [client.enqueue("which@1", 1, delay=3600.0) for _ in range(2)]
        site.rollout("start", "default", "two", "--module", write(tmp_path, "2"))
        told = site.until("kept")
        assert told["reason"].startswith("open jobs ask for versions that only old workers serve")
        assert (len(site.of("")), len(site.of("two"))) == (1, 1)
        assert client.run("which@1", 1, result_timeout=PATIENCE_S) == "1"
        for job in held:
            job.cancel()
        wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the rollout to end")


def test_without_room_for_one_more_one_goes_first(site: Rolled, tmp_path: Path) -> None:
    site.lead()
    site.until_ready(2)
    with asked(site.settings) as answers, site.watched(1):
        site.rollout("start", "default", "two", "--module", write(tmp_path, "2"), "--surge", "0")
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(site.slots))
            return bool(site.status()["done"]) and len(site.slots) == 2

        wait_for(done, what="the rollout to end")
        later(answers, {"2"})
    assert most == 2, "what drains holds its place"


def test_the_status_is_for_people(site: Rolled, tmp_path: Path) -> None:
    site.lead()
    site.until_ready(2)
    site.rollout("start", "default", "two", "--module", write(tmp_path, "2"), "--share", "10%")
    site.until("canary")
    _, out, _ = ended(site.settings, "rollout", "status")
    assert "1 of 1" in out and "1 of -" in out and "10% is wanted of 'two'" in " ".join(out.split()), out


def test_an_autoscaler_answers_probes_whether_it_leads_or_waits(site: Rolled) -> None:
    first, *_, second = [free_port() for _ in range(10)]  # workers have the ports behind their autoscaler's
    for port in (first, second):
        site.settings = site.settings.model_copy(
            update={"metrics": site.settings.metrics.model_copy(update={"port": port, "stuck_after_s": 5.0})}
        )
        autoscaler = site.lead()
        probe = Probe(site.settings)
        wait_for(lambda probe=probe: probe.both() == (200, 200), what="the autoscaler to have looked")
        if len(site.leading) > 1:
            autoscaler.leave()
            assert probe.both() == (0, 0)
