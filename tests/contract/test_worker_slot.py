"""A worker's hold on its slot, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.store import Store
from penstock.store.elastic import Elastic, NewSlot, Slot
from penstock_worker import slot as module
from penstock_worker.slot import HeldSlot
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.store import T0, lead, register


class Watched:
    """A slot that was made for a worker, and what the worker is told."""

    def __init__(self, store: Store, *, state: str = "wanted", fence: str | None = None) -> None:
        self.store = store
        self.elastic: Elastic = store.elastic
        self.term = lead(self.elastic)
        self.new = NewSlot(pool="gpu", state=state)
        self.elastic.change(self.term, add=[self.new], now=T0)
        #: "drain", "park", "wake" and "end", as the worker was told.
        self.told: list[str] = []
        self._changed = threading.Condition()
        self.held = self.hold("w", fence=fence)

    def hold(self, worker: str, **given: Any) -> HeldSlot:
        return HeldSlot(self.store, self.new.id, worker=worker, end=lambda: self.tell("end"), **given)

    def begin(self) -> None:
        self.held.begin(drain=lambda: self.tell("drain"), park=lambda parked: self.tell("park" if parked else "wake"))

    def tell(self, word: str) -> None:
        with self._changed:
            self.told.append(word)
            self._changed.notify_all()

    def set(self, state: str) -> None:
        self.elastic.change(self.term, set={self.new.id: state}, reason="fewer are needed", now=T0)

    def remove(self) -> None:
        """As who finds that what realised it is gone."""
        self.set("draining")
        assert self.elastic.gone([self.row], term=self.term)

    @property
    def row(self) -> Slot:
        row = self.elastic.slot(self.new.id)
        assert row is not None
        return row

    def wait(self, *told: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.told == list(told), PATIENCE_S), (self.told, told)

    def until(self, holds: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.02)):
            if holds():
                return
            pause.wait(0.02)
        pytest.fail("waited in vain")


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)


@pytest.fixture
def watched(store: Store) -> Watched:
    return Watched(store)


def test_it_is_taken_is_ready_and_is_left(watched: Watched) -> None:
    taken = watched.held.take()
    assert taken is not None and taken.worker == "w"
    watched.begin()
    assert watched.row.ready_at is None, "not before the models are"
    watched.held.ready()
    assert watched.row.ready_at is not None
    watched.held.stop()
    watched.held.stop()
    assert (watched.row.worker, watched.row.ready_at, watched.told) == (None, None, [])


def test_a_worker_without_one_is_told_so(watched: Watched) -> None:
    assert watched.hold("first", fence="f").take() is not None
    with capture_logs() as logs:
        assert watched.hold("second", fence="g").take() is None
        watched.set("draining")
        assert watched.hold("third", fence="f").take() is None
        watched.remove()
        assert watched.hold("fourth").take() is None
    why = [line["why"] for line in logs if line["action"] == "worker.no_slot"]
    assert why == ["first has it", "it drains: fewer are needed", "it is there no longer"]


def test_it_drains_once_and_ends_by_itself(watched: Watched) -> None:
    watched.held.take()
    watched.begin()
    watched.set("draining")
    watched.wait("drain")
    watched.held.ready()
    watched.held.stop()
    assert watched.told == ["drain"]
    assert watched.row.worker is None


def test_what_is_removed_under_it_drains_too(watched: Watched) -> None:
    watched.held.take()
    watched.begin()
    watched.remove()
    watched.wait("drain")
    watched.held.stop()


def test_one_that_is_loading_ends_at_once(watched: Watched) -> None:
    watched.held.take()
    watched.set("draining")
    watched.wait("end")
    assert watched.row.worker is None, "whoever looks sees that it is gone"
    watched.held.stop()


def test_it_is_looked_at_before_the_beginning(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is until the next look: nothing is consumed for a slot that is there no longer."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    watched.held.take()
    watched.remove()
    watched.begin()
    assert watched.told == ["end"]
    watched.held.stop()


def test_it_is_parked_and_woken(watched: Watched) -> None:
    watched.held.take()
    watched.begin()
    watched.set("parked")
    watched.wait("park")
    watched.set("wanted")
    watched.wait("park", "wake")
    watched.set("parked")
    watched.wait("park", "wake", "park")
    watched.set("draining")
    watched.wait("park", "wake", "park", "drain")
    watched.held.stop()


def test_one_that_is_parked_from_its_beginning_does_not_begin_to_consume(store: Store) -> None:
    watched = Watched(store, state="parked")
    watched.held.take()
    watched.begin()
    assert watched.told == ["park"]
    watched.held.stop()


def test_a_worker_that_was_taken_for_dead_takes_it_again(store: Store, watched: Watched) -> None:
    register(store, "w", lease_until=T0)
    watched.held.take()
    watched.begin()
    watched.held.ready()
    ready_at = watched.row.ready_at
    store.rescue(now=T0 + 1, max_losses=3)
    watched.until(lambda: (watched.row.worker, watched.row.ready_at) == ("w", ready_at))
    assert watched.told == []
    watched.held.stop()


def test_a_worker_that_was_taken_for_dead_leaves_it_to_who_has_come(
    store: Store, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, "w", lease_until=T0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    watched.held.take()
    watched.begin()
    store.rescue(now=T0 + 1, max_losses=3)
    assert watched.elastic.take(watched.new.id, "another")
    watched.held.ready()
    assert watched.told == ["drain"]
    watched.held.stop()
    assert watched.row.worker == "another"


def test_a_new_start_of_its_process_has_it_drain(watched: Watched) -> None:
    """A leader took it for gone, since it saw nothing of it, and has started another."""
    watched.held.take()
    watched.begin()
    assert watched.elastic.place(watched.new.id, {"pid": 2}, term=watched.term, fence="new")
    watched.wait("drain")
    watched.held.stop()


def test_it_goes_on_while_the_database_is_away(postgres_url: str, postgres_server: PostgresServer) -> None:
    store = Store.open(postgres_url)
    watched = Watched(store)
    watched.held.take()
    watched.begin()
    with capture_logs() as logs:
        postgres_server.kill()
        watched.held.ready()
        watched.held._look()
    said = [line for line in logs if (line["action"], line.get("slot")) == ("slot.wait", watched.new.id)]
    assert len(said) == 1, "once"
    assert watched.told == []
    postgres_server.start()
    watched.until(lambda: watched.row.ready_at is not None)
    watched.set("draining")
    watched.wait("drain")
    watched.held.stop()
    store.close()
