"""``penstock rollout``: what people say, what is stored, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Elastic, NewSlot
from tests.fixtures.store import lead
from tests.integration.test_versions import each, ended

NOW = 1_700_000_000.0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a pool that nobody has looked after yet."""
    return settings.model_copy(update={"pools": Settings(pools={"gpu": {}}).pools})


@pytest.fixture
def elastic(settings: Settings) -> Iterator[Elastic]:
    store = Store.open(settings.database)
    yield store.elastic
    store.close()


def rollout(settings: Settings, *args: str) -> dict[str, Any]:
    status, out, err = ended(settings, "rollout", *args, "--json")
    assert status == 0, f"{out}\n{err}"
    return each(out)[0]


def test_a_canary_is_started_steered_and_undone(settings: Settings, elastic: Elastic) -> None:
    told = rollout(settings, "start", "gpu", "1.1", "--module", "a.py", "--image", "a:2", "--share", "10%")
    assert (told["revision"], told["share"], told["surge"], told["done"]) == ("1.1", 0.1, 1, False)
    stored = elastic.rollouts()["gpu"]
    assert stored.spec == {"revision": "1.1", "models": ["a.py"], "image": "a:2"}

    assert rollout(settings, "share", "gpu", "0.5")["share"] == 0.5
    assert rollout(settings, "pause", "gpu")["paused"] is True
    assert rollout(settings, "resume", "gpu")["paused"] is False
    assert rollout(settings, "share", "gpu", "100%")["share"] == 1.0
    undone = rollout(settings, "undo", "gpu")
    assert (undone["revision"], undone["previous"], undone["share"]) == ("", "1.1", 1.0)
    _, out, err = ended(settings, "rollout", "undo", "gpu")
    assert "the workers of 'gpu' become '1.1' again" in out + err


def test_a_pool_that_there_is_not_is_refused_with_those_that_there_are(settings: Settings, elastic: Elastic) -> None:
    status, _, err = ended(settings, "rollout", "start", "gpo", "2")
    assert status == 2 and "there is no pool 'gpo'" in err and "did you mean gpu?" in err
    assert elastic.rollouts() == {}


def test_the_surge_is_the_pools_unless_said(settings: Settings) -> None:
    pool = settings.pool("gpu").model_copy(update={"surge": 0})
    settings = settings.model_copy(update={"pools": {"gpu": pool}})
    assert rollout(settings, "start", "gpu", "1")["surge"] == 0
    assert rollout(settings, "start", "gpu", "2", "--surge", "3")["surge"] == 3


def test_the_status_counts_who_is_what(settings: Settings, elastic: Elastic) -> None:
    _, out, err = ended(settings, "rollout", "status")
    assert "nothing was rolled out yet" in out + err
    rollout(settings, "start", "gpu", "2")
    term = lead(elastic)
    new = [NewSlot(pool="gpu", spec=spec) for spec in ({"revision": "2"}, {"revision": "2"}, {})]
    elastic.change(term, add=[*new, NewSlot(pool="cpu")], now=NOW)
    assert elastic.take(new[0].id, "w1") is not None
    assert elastic.ready(new[0].id, "w1", now=NOW)
    told = rollout(settings, "status", "gpu")
    assert (told["workers"], told["ready"], told["others"]) == (2, 1, {"": 1})
    assert told["reason"] == "the autoscaler has not looked at it yet"
    state = {"pools": {"gpu": {"rollout": {"code": "start", "reason": "workers start"}}}}
    assert elastic.beat(term, state=state)
    assert rollout(settings, "status", "gpu")["reason"] == "workers start"
    _, out, _ = ended(settings, "rollout", "status")
    assert "1 of 2" in out and "1 of -" in out and "workers start" in out, out
    elastic.change(term, set={new[1].id: "draining", new[2].id: "draining"}, now=NOW)
    assert rollout(settings, "status")["done"] is False, "one is still to be started in an old one's place"
    state["pools"]["gpu"]["rollout"]["code"] = "done"
    assert elastic.beat(term, state=state)
    assert rollout(settings, "status")["done"] is True


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("status", "gpu"), 2, "was never rolled out"),
        (("share", "gpu", "50%"), 2, "was never rolled out"),
        (("undo", "gpu"), 2, "was never rolled out"),
        (("start", "gpu", "2", "--share", "110%"), 2, "is no share: write 10% or 0.1"),
        (("start", "gpu", "2", "--share", "lots"), 2, "is no share"),
        (("start", "gpu", " "), 2, "REVISION is a name"),
    ],
)
def test_what_cannot_be_done_is_told(settings: Settings, args: tuple[str, ...], status: int, words: str) -> None:
    found, out, err = ended(settings, "rollout", *args)
    assert found == status, (out, err)
    assert words in err


def test_workers_that_others_start_are_rolled_out_by_them(settings: Settings) -> None:
    scaler = settings.autoscaler.model_copy(update={"backend": "external"})
    status, _, err = ended(settings.model_copy(update={"autoscaler": scaler}), "rollout", "start", "gpu", "2")
    assert status != 0
    assert "/readyz" in err


def test_a_revision_is_not_two_things(settings: Settings) -> None:
    rollout(settings, "start", "gpu", "2", "--image", "a:2")
    status, _, err = ended(settings, "rollout", "start", "gpu", "2", "--image", "a:3")
    assert status != 0
    assert "is something else already" in err and "give the new one another name" in err
