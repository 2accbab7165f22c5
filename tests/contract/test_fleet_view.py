"""The picture of the workers: leases and announcements from SQL, loads and claims from the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import residents
from penstock.transport.claims import Claims
from penstock.transport.residents import Word
from penstock.views.fleet import Fleet, look, process_of, registered

NOW = 1_700_000_000.0


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


def announce(store: Store, instance: str, *, pool: str = "default", lease_s: float = 30.0, **info: Any) -> None:
    name = instance.split(":")[0]
    versions = info.pop("versions", {})
    models = {model: {"version": version, "declared": True} for model, version in versions.items()}
    about = {"device": "cpu", "pid": 7, "version": "0.1", "models": models, "memory": None, **info}
    store.register_worker(instance, name=name, pool=pool, lease_until=NOW + lease_s, now=NOW, info=about)


def settings(url: str, tmp_path: Path, namespace: str = "penstock") -> Settings:
    return Settings.load(home=tmp_path, broker_url=url, database_url="sqlite:///unused", namespace=namespace)


def test_workers_are_seen_with_their_pools_leases_and_versions(store: Store) -> None:
    announce(store, "a@h:1:x", pool="gpu", versions={"embed": "1", "ocr": "3"}, device="cuda:0", metrics="h:9101")
    announce(store, "b@h:2:x", versions={"embed": "2"})
    announce(store, "c@h:3:x", versions={"embed": "2"}, lease_s=-1.0)
    fleet = registered(store, now=NOW + 10.0)
    a, b, c = fleet.workers
    assert (a.pool, a.device, a.release, a.pid, a.metrics) == ("gpu", "cuda:0", "0.1", 7, "h:9101")
    assert (a.age_s, a.silent_s, a.lease_s) == (10.0, 10.0, 20.0)
    assert (a.live, b.live, c.live) == (True, True, False)
    assert {pool: [each.name for each in those] for pool, those in fleet.pools.items()} == {
        "default": ["b@h"],
        "gpu": ["a@h"],
    }
    assert {model: [one.version for one in those] for model, those in fleet.served.items()} == {
        "embed": ["1", "2"],
        "ocr": ["3"],
    }
    assert [place.state for place in fleet.places["embed"]] == ["loaded", "loaded"]
    assert [each.name for each in fleet.serving("embed")] == ["a@h", "b@h"]
    assert [each.name for each in fleet.serving("embed@2")] == ["b@h"]
    assert fleet.serving("embed@4") == fleet.serving("nothing") == []
    assert {each.busy for each in fleet.workers} == {None}, "nobody has asked"


def test_namesakes_are_told_among_the_living(store: Store) -> None:
    for pid, lease_s in ((1, 30.0), (2, 30.0), (3, -1.0)):
        announce(store, f"a@h:{pid}:x", lease_s=lease_s)
    announce(store, "b@h:4:x")
    assert registered(store, now=NOW).namesakes == {"a@h": 2}


def test_what_does_not_fit_is_where_the_worker_says(
    store: Store, broker: redis.Redis, broker_url: str, namespace: str, tmp_path: Path
) -> None:
    announce(store, "a@h:1:x", versions={"one": "1", "two": "1", "three": "1"}, memory=100)
    given = settings(broker_url, tmp_path, namespace)
    unheard = look(store, given, now=NOW).workers[0]
    assert {place.state for place in unheard.models.values()} == {"unknown"}
    residents.say(broker, namespace, "a@h:1:x", Word(NOW, ["one"], 60, 100, "two"))
    heard = look(store, given, now=NOW).workers[0]
    assert {name: place.state for name, place in heard.models.items()} == {
        "one": "loaded",
        "two": "loading",
        "three": "not loaded",
    }
    assert {(place.used, place.memory) for place in heard.models.values()} == {(60, 100)}


def test_who_holds_messages_is_busy(
    store: Store, broker: redis.Redis, broker_url: str, namespace: str, tmp_path: Path
) -> None:
    claims = Claims(broker, namespace)
    queue = f"{namespace}.m.background"
    broker.lpush(queue, b"one", b"two")
    assert len(claims.claim({queue: 5})[queue]) == 2
    host, _, pid = process_of(claims.consumer).rpartition(":")
    announce(store, f"a@{host}:{pid}:x", versions={"m": "1"})
    announce(store, "b@elsewhere:1:x", versions={"m": "1"})
    announce(store, "c@a-name-of-its-own:2:x", versions={"m": "1"}, host=host, pid=int(pid))
    fleet = look(store, settings(broker_url, tmp_path, namespace), now=NOW, busy=True)
    assert [(each.holds, each.busy) for each in fleet.workers] == [(2, True), (0, False), (2, True)]


def test_a_broker_that_is_away_leaves_open_what_only_it_knows(store: Store, tmp_path: Path) -> None:
    announce(store, "a@h:1:x", versions={"one": "1"}, memory=100)
    announce(store, "b@h:2:x", versions={"one": "1"})
    a, b = look(store, settings("redis://127.0.0.1:9/0", tmp_path), now=NOW, busy=True).workers
    assert (a.models["one"].state, a.busy) == ("unknown", None)
    assert (b.models["one"].state, b.busy) == ("loaded", None)


def test_no_workers_are_no_error(store: Store) -> None:
    fleet = registered(store, now=NOW)
    assert fleet == Fleet([])
    assert (fleet.live, fleet.pools, fleet.served, fleet.places, fleet.namesakes) == ([], {}, {}, {}, {})
