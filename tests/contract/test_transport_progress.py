"""Partial output of steps in the stream of their run: each piece once, in the order of its step, whoever writes it."""

from __future__ import annotations

import pytest
import redis

from penstock.store.records import Within
from penstock.transport import keys
from penstock.transport.progress import Part, ProgressLog, tell_command, write_commands
from penstock.transport.url import connect, parse

NS = "ns"


class Broker:
    """What workers write and clients read."""

    def __init__(self, url: str) -> None:
        self.redis = connect(parse(url))
        self.log = ProgressLog(url, NS)

    def tell(self, *pieces: tuple[str, int, int], run: int = 1, at: float = 100.0, keep: int = 1000) -> int:
        """Pieces by step, attempt and index."""
        parts = [
            (Within("run", path, run), Part(path, f"job-{path}", attempt, index), f'"{path} {index}"')
            for path, attempt, index in pieces
        ]
        found: int = self.redis.execute_command(*tell_command(NS, parts, at=at, keep=keep, ttl_s=60))
        return found

    def told(self, run: int = 1, place: int = 0) -> list[tuple[str, int, int]]:
        found = self.log.read("run", run, place, 10_000)
        places = [(entry.attempt, entry.index) for entry in found]
        assert places == sorted(set(places))
        assert all(entry.step is not None for entry in found)
        return [(e.step.path, e.step.attempt, e.step.index) for e in found if e.step is not None]


@pytest.fixture
def broker(broker_url: str) -> Broker:
    return Broker(broker_url)


def test_pieces_come_in_the_order_in_which_they_were_told(broker: Broker) -> None:
    assert broker.tell(("a", 1, 0), ("b[3]", 1, 0), ("a", 1, 1)) == 3
    assert broker.tell(("b[3]", 1, 1)) == 1
    assert broker.told() == [("a", 1, 0), ("b[3]", 1, 0), ("a", 1, 1), ("b[3]", 1, 1)]
    first = broker.log.read("run", 1, 0, 10)[0]
    assert (first.attempt, first.at, first.data, first.step) == (1, 100.0, "a 0", Part("a", "job-a", 1, 0))
    own = broker.log.read("job-a", 1, 0, 10)
    assert [(e.attempt, e.index, e.data, e.step) for e in own] == [(1, 0, "a 0", None), (1, 1, "a 1", None)]
    for key in ("run", "job-a", "job-b[3]"):
        assert 0 < broker.redis.pttl(keys.progress(NS, key)) <= 60_000


def test_what_is_told_again_is_told_once(broker: Broker) -> None:
    broker.tell(("a", 1, 0), ("a", 1, 1))
    assert broker.tell(("a", 1, 0), ("a", 1, 1), ("a", 1, 2)) == 1
    broker.tell(("a", 2, 0))
    assert broker.tell(("a", 1, 3)) == 0, "its attempt was taken over"
    assert broker.told() == [("a", 1, 0), ("a", 1, 1), ("a", 1, 2), ("a", 2, 0)]


def test_a_run_that_is_tried_again_hears_no_older_step(broker: Broker) -> None:
    broker.tell(("a", 1, 0))
    broker.tell(("b", 1, 0), run=2)
    broker.tell(("c", 1, 0), run=1)
    assert broker.told() == [("a", 1, 0), ("b", 1, 0)]
    assert [(e.attempt) for e in broker.log.read("run", 1, 0, 10)] == [1, 2]


def test_readers_go_on_where_the_broker_has_lost_everything(broker: Broker) -> None:
    broker.tell(*(("a", 1, index) for index in range(50)), at=100.0)
    last = broker.log.read("run", 1, 0, 100)[-1]
    broker.redis.flushall()
    broker.tell(("a", 1, 50), at=100.001)
    assert broker.told(place=last.index + 1) == [("a", 1, 50)]


def test_a_run_keeps_a_bounded_number_of_pieces(broker: Broker) -> None:
    for index in range(1000):
        broker.tell(("a", 1, index), keep=10)
    kept = broker.told()
    assert 10 <= len(kept) <= 200 and kept[-1] == ("a", 1, 999)


@pytest.mark.parametrize("broken", ["run", "job-a"])
def test_what_somebody_has_broken_loses_no_piece_once_it_is_mended(broker: Broker, broken: str) -> None:
    broker.redis.set(keys.progress(NS, broken), "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        broker.tell(("a", 1, 0))
    broker.redis.delete(keys.progress(NS, broken))
    assert broker.tell(("a", 1, 0)) == 1
    assert broker.told() == [("a", 1, 0)]


def test_a_stream_has_no_use_for_entries_of_others(broker: Broker) -> None:
    key = keys.progress(NS, "run")
    broker.redis.xadd(key, {"at": "1", "data": "1", "step": "a"}, id="1-5")
    broker.redis.xadd(key, {"at": "1", "data": "1", "step": "a", "job": "j", "piece": "x"}, id="1-6")
    for command in write_commands(NS, "plain", 1, 0, "1", at=1.0, keep=10, ttl_s=60):
        broker.redis.execute_command(*command)
    assert broker.log.read("run", 1, 0, 10) == []
    assert [entry.step for entry in broker.log.read("plain", 1, 0, 10)] == [None]
    broker.tell(("a", 1, 0))
    assert broker.told() == [("a", 1, 0)]
