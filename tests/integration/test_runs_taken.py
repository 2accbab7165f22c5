"""Celery's calls of pipelines, taken by hand on a real database: what happens when that is away, or refuses one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import penstock
from penstock.dispatch.catalog import Catalog
from penstock.errors import StoreUnavailable
from penstock.job import new_id
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.store import Store
from penstock_worker.canvas import runs as module
from penstock_worker.canvas.finisher import CanvasFinisher
from penstock_worker.canvas.runs import MOST, RunIntake
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import W
from tests.fixtures.worker import wait_for


@penstock.pipeline
def echoed(value: int) -> Any:
    """Its input."""
    return [value]


@penstock.pipeline
def paused(value: int) -> Any:
    """Goes on for longer than a test."""
    return [value, penstock.wait_for("go")]


class Hub:
    """Runs what is posted at once, and remembers what was acknowledged and what was set aside."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.aside: list[bytes] = []
        self.mutex = threading.RLock()

    def post(self, call: Callable[[], None]) -> None:
        with self.mutex:
            call()

    def set_aside(self, claimed: Any, error: Exception) -> None:
        self.aside.append(claimed.raw)


class Request(SimpleNamespace):
    """Celery's, which keeps those that it has in a set."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def intake(store: Store, settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunIntake]:
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.01)
    canvas = CanvasFinisher(SimpleNamespace(backend=None), store, post=hub.post)  # type: ignore[arg-type]
    monkeypatch.setattr(canvas, "_trace", lambda *args, **kwargs: (0, None, 0.0))
    catalog = Catalog(settings, store, registry=Registry([echoed, paused]))
    taken = RunIntake(settings, store, canvas, catalog, worker=W, post=hub.post, tell=lambda rows: None)
    yield taken
    taken.stop()


def send(intake: RunIntake, hub: Hub, name: str, *args: Any, id: str | None = None) -> str:
    """Deliver a message, as Celery does; its id."""
    id = id or new_id()
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = {"id": id, "task": f"penstock.{name}"}
    message = SimpleNamespace(
        headers=headers,
        body=json.dumps([args, {}, embed]),
        content_type="application/json",
        content_encoding="utf-8",
        properties={},
        delivery_tag=1,
        delivery_info={"routing_key": "penstock._pipelines.background"},
        channel=hub,
    )
    request = Request(
        id=id,
        type=headers["task"],
        args=args,
        kwargs={},
        message=message,
        request_dict=dict(headers),
        time_limits=None,
        expires=None,
        eta=None,
        _payload=[list(args), {}, embed],
        acknowledge=lambda: hub.acknowledged.append(id),
        on_success=lambda returned: hub.acknowledged.append(id),
        send_event=lambda *args, **fields: None,
    )
    intake.take(message, request)
    return id


def test_they_wait_for_a_database_that_is_away(
    intake: RunIntake, hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, insert = [1, 2, 3], store.insert_groups

    def refuse(*args: Any, **fields: Any) -> Any:
        if away:
            away.pop()
            assert not hub.acknowledged
            raise StoreUnavailable("away")
        return insert(*args, **fields)

    monkeypatch.setattr(store, "insert_groups", refuse)
    ids = [send(intake, hub, "paused", n) for n in range(5)]
    wait_for(lambda: len(hub.acknowledged) == 5, what="all of them to be runs")
    jobs = store.get_many(ids)
    assert [jobs[id].input for id in ids] == [{"value": n} for n in range(5)]
    assert {(job.status, job.lane, job.model) for job in jobs.values()} == {("running", "background", "paused")}


def test_no_more_are_asked_for_than_are_held_at_most(
    intake: RunIntake, hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    look = store.get_many

    def slow(ids: Any) -> Any:
        assert go.wait(PATIENCE_S)
        return look(ids)

    monkeypatch.setattr(store, "get_many", slow)
    assert set(intake.quota().values()) == {MOST}
    for n in range(30):
        send(intake, hub, "paused", n)
    assert set(intake.quota().values()) == {MOST - 30}
    go.set()
    wait_for(lambda: set(intake.quota().values()) == {MOST}, what="all to be acknowledged")
    intake.stop()
    assert set(intake.quota().values()) == {0}


def test_twins_are_one_run_and_another_jobs_id_is_left_alone(intake: RunIntake, hub: Hub, store: Store) -> None:
    first = send(intake, hub, "paused", 1)
    send(intake, hub, "paused", 2, id=first)
    wait_for(lambda: len(hub.acknowledged) == 2, what="both")
    send(intake, hub, "echoed", 3, id=first)
    wait_for(lambda: len(hub.acknowledged) == 3, what="the third")
    assert (store.get(first).model, store.get(first).input) == ("paused", {"value": 1})


def test_one_that_is_over_at_once_is_told_by_its_message_that_comes_again(
    intake: RunIntake, hub: Hub, store: Store
) -> None:
    told: list[Any] = []
    store.finish_by(told.extend)
    id = send(intake, hub, "echoed", 7)
    wait_for(lambda: hub.acknowledged == [id], what="its run")
    assert [(job.id, job.output) for job in told] == [(id, [7])] and store.owed([id])
    send(intake, hub, "echoed", 7, id=id)
    wait_for(lambda: hub.acknowledged == [id, id], what="Celery to be told")
    assert not store.owed([id])


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("paused", ("one",), "does not fit"),
        ("paused", (1, 2), "given 2 arguments"),
        ("paused", (), "given no 'value'"),
        ("nosuch", (1,), "no model is named 'nosuch'"),
        ("No Name\0", (1,), "no model is named '_pipelines'"),
        ("paused", ({1: "\ud800"},), "does not fit|surrogate"),
    ],
)
def test_what_cannot_be_a_run_fails_as_a_job_and_costs_its_mates_nothing(
    intake: RunIntake, hub: Hub, store: Store, name: str, args: Any, words: str
) -> None:
    before, wrong, behind = (
        send(intake, hub, "paused", 1),
        send(intake, hub, name, *args),
        send(intake, hub, "paused", 2),
    )
    wait_for(lambda: len(hub.acknowledged) == 3, what="all three")
    jobs = store.get_many([before, wrong, behind])
    assert [jobs[id].status for id in (before, wrong, behind)] == ["running", "failed", "running"]
    error = jobs[wrong].error or {}
    assert re.search(words, error["message"]), error
    assert jobs[wrong].graph is None and not store.owed([wrong])


def test_one_that_the_database_refuses_is_set_aside(
    intake: RunIntake, hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours costs the others nothing, and no message is lost or goes round."""
    insert = store.insert_groups

    def refuse(groups: Any, **fields: Any) -> Any:
        if any(job.input == '{"value":13}' for group in groups for job in group):
            raise ValueError("not this one")
        return insert(groups, **fields)

    monkeypatch.setattr(store, "insert_groups", refuse)
    good = [send(intake, hub, "paused", n) for n in range(3)]
    send(intake, hub, "paused", 13)
    wait_for(lambda: len(hub.aside) == 1, what="it to be set aside")
    wait_for(lambda: set(hub.acknowledged) >= set(good), what="the others")
    assert b"13" in hub.aside[0]
    assert set(intake.quota().values()) == {MOST}
