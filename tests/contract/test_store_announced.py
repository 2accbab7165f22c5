"""What is announced of models and pipelines before a worker serves them, on each database."""

from __future__ import annotations

from typing import Any

from penstock.store import Store
from tests.fixtures.store import T0, register

MODEL: dict[str, Any] = {"version": "1", "pool": "gpu", "schema": {"type": "string"}}
PIPELINE: dict[str, Any] = {"graph": "{}", "doc": "One.", "inputs": {}}


def test_models_and_pipelines_are_known_before_a_worker_serves_them(store: Store) -> None:
    store.announce({"embed": MODEL}, {"answer": PIPELINE}, now=T0)
    assert store.models() == {"embed": MODEL} and store.pipelines() == {"answer": PIPELINE}
    assert [worker.info for worker in store.workers()] == [{}]
    store.announce({"embed": MODEL | {"version": "2"}}, {"answer": PIPELINE | {"doc": "Two."}}, now=T0 + 1)
    assert store.models()["embed"]["version"] == "2" and store.pipelines()["answer"]["doc"] == "Two."
    store.announce({}, {}, now=T0 + 2)
    assert set(store.models()) == {"embed"} and set(store.pipelines()) == {"answer"}


def test_what_a_live_worker_serves_is_as_it_has_announced_it(store: Store) -> None:
    register(store, "w", lease_until=T0 + 10, models={"embed": MODEL}, pipelines={"answer": PIPELINE})
    other = MODEL | {"version": "0", "schema": {"type": "integer"}}
    told = {"embed": other, "rank": other}, {"answer": PIPELINE | {"doc": "Zero."}, "more": PIPELINE}
    store.announce(*told, now=T0 + 1)
    assert store.models() == {"embed": MODEL, "rank": other}
    assert {name: about["doc"] for name, about in store.pipelines().items()} == {"answer": "One.", "more": "One."}
    store.announce(*told, now=T0 + 11)  # it has died
    assert store.models()["embed"] == other and store.pipelines()["answer"]["doc"] == "Zero."
