"""A worker is heard while it loads a model, however long that takes; the loads here take as long as the test wants."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from penstock import Resources
from penstock.errors import ModelLoadFailed
from penstock.lane import Lane
from penstock.model import Model
from penstock.policy.batching import Adaptive
from penstock.policy.latency import LatencyBook
from penstock.testing import FakeClock
from penstock.transport import residents
from penstock.transport.residents import Word
from penstock.transport.url import connect
from penstock_worker.item import Item
from penstock_worker.models import residency
from penstock_worker.models.residency import FRESH_S, Residency
from penstock_worker.schedule.batcher import Batcher
from tests.fixtures.patience import PATIENCE_S

GIB = 2**30


class Small(Model):
    """Is there at once."""

    name = "small"
    resources = Resources(memory="1GiB")

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Slow(Small):
    """Loads until it is told to end."""

    name = "slow"
    began, end = threading.Event(), threading.Event()
    broken = False

    def load(self, device: str) -> None:
        self.began.set()
        assert self.end.wait(PATIENCE_S)
        if self.broken:
            raise ValueError("no weights")


class Others:
    """What the others hear, at a server whose time is the test's."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self.client = connect(url, timeout_s=5.0)
        self.server = FakeClock(1000.0)
        self.heard: queue.Queue[Word] = queue.Queue()

    def worker(self, *models: type[Model]) -> Residency:
        """One with room for one of them."""
        client: Any = connect(self.url, timeout_s=5.0)
        client.time = lambda: (int(self.server()), 0)
        return Residency(
            {cls.name: cls for cls in models},
            budget=GIB,
            device="cpu",
            latency=LatencyBook(),
            namespace=self.namespace,
            worker="w1",
            client=client,
        )

    def next(self, matching: Callable[[Word], bool]) -> Word:
        """The next word that matches."""
        while not matching(word := self.heard.get(timeout=PATIENCE_S)):
            pass
        return word

    def next_fresh(self) -> Word:
        return self.next(lambda word: self.server() - word.at < FRESH_S)

    def words(self) -> dict[str, Word]:
        return residents.words(self.client, self.namespace)


@pytest.fixture
def others(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Others]:
    found = Others(broker_url, namespace)
    say = residents.say

    def overheard(client: redis.Redis, namespace: str, worker: str, word: Word) -> None:
        say(client, namespace, worker, word)
        found.heard.put(word)

    monkeypatch.setattr(residents, "say", overheard)
    monkeypatch.setattr(residency, "REPEAT_S", 0.001)
    monkeypatch.setattr(Slow, "began", threading.Event())
    monkeypatch.setattr(Slow, "end", threading.Event())
    yield found
    Slow.end.set()
    found.client.close()


def test_a_worker_is_heard_during_its_first_load(others: Others) -> None:
    worker = others.worker(Slow)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(worker.load_first)
        assert Slow.began.wait(PATIENCE_S)
        for _ in range(3):
            others.server.advance(10 * FRESH_S)
            word = others.next_fresh()
            assert (word.loading, word.used, list(word.models)) == ("slow", GIB, [])
            assert others.words().keys() == {"w1"}
        Slow.end.set()
        loading.result(PATIENCE_S)
    assert list(worker.models) == ["slow"]
    worker.stop()
    assert others.words() == {}, "and says goodbye"


def test_a_worker_is_heard_while_it_changes_models_and_is_up_to_date_at_once(others: Others) -> None:
    worker = others.worker(Small, Slow)
    worker.load_first()
    batcher = Batcher({"small": Small, "slow": Slow}, Adaptive(), namespace=others.namespace)
    # What was claimed here has to run here.
    batcher.put([Item("j1", "slow", Lane.BACKGROUND, input="1", tag=1, source="", arrived_at=0.0, claimed_at=0.0)])
    worker.feed(batcher)
    worker.start()
    assert Slow.began.wait(PATIENCE_S)
    others.server.advance(10 * FRESH_S)
    assert others.next_fresh().loading == "slow"
    others.server.advance(10 * FRESH_S)
    Slow.end.set()
    word = others.next(lambda word: word.loading is None and "slow" in word.models)
    assert others.server() - word.at < FRESH_S, "the load does not make its first word an old one"
    worker.stop()


def test_nobody_counts_on_a_load_that_hangs(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "LOADING_MOST_S", 0.0)
    worker = others.worker(Slow)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(worker.load_first)
        assert Slow.began.wait(PATIENCE_S)
        word = others.next(lambda word: word.loading is None)
        assert (list(word.models), word.used) == ([], 0)
        Slow.end.set()
        loading.result(PATIENCE_S)
    worker.stop()


def test_a_worker_that_cannot_start_takes_its_word_back(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "broken", True)
    Slow.end.set()
    with pytest.raises(ModelLoadFailed, match="no weights"):
        others.worker(Slow).load_first()
    assert others.next(lambda word: True).loading == "slow"
    assert others.words() == {}
