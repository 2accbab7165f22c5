"""What a name means to a producer: what is defined here, what models and pipelines workers announced."""

from __future__ import annotations

from typing import Any

import pytest

import penstock
from penstock.dispatch.catalog import Catalog
from penstock.errors import InvalidInput, UnknownModel
from penstock.pipelines.announced import announcement
from penstock.pipelines.graph import Graph, Step
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.store import Store
from penstock_worker.models.loader import announce
from tests.fixtures.store import register


@penstock.pipeline
def ask(question: str, top: int = 3) -> Any:
    """Two inputs."""
    return [question, top]


@penstock.pipeline(name="ask")
def ask_again(question: str) -> Any:
    """Another one of the same name."""
    return question


@pytest.fixture
def announced(store: Store) -> Store:
    models = {"embed": {"version": "1", "schema": {"type": "string"}, "exact": True}, "both": {"version": "1"}}
    pipelines = {"ask": announcement(ask), "both": announcement(ask)}
    register(store, "w1", models=models, pipelines=pipelines)
    return store


@pytest.fixture
def catalog(announced: Store, settings: Settings) -> Catalog:
    return Catalog(settings.model_copy(update={"models": ["not_here"]}), announced)


def test_an_announced_pipeline_is_a_run_of_its_graph(catalog: Catalog) -> None:
    target = catalog.find("ask")
    assert target.pipeline is not None and target.pipeline.text == ask.text
    assert target.encode({"question": "why?"}, 1000) == '{"question":"why?","top":3}'


def test_what_a_model_and_a_pipeline_are_both_called_is_the_model(catalog: Catalog) -> None:
    assert catalog.find("both").pipeline is None


def test_what_is_imported_here_comes_first(announced: Store, settings: Settings) -> None:
    mine = Catalog(settings, announced, registry=Registry([ask_again]))
    assert mine.find("ask").pipeline is ask_again
    assert mine.find("embed").info["version"] == "1"


@pytest.mark.parametrize(("name", "words"), [("aks", "'ask'? `penstock pipe"), ("embad", "'embed'? `penstock model")])
def test_the_nearest_is_one_of_both_kinds(catalog: Catalog, name: str, words: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalog.find(name)
    assert f"did you mean {words}" in str(caught.value.fix)


def test_a_pipeline_has_no_versions_and_is_no_step_of_a_graph_that_is_data(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="no versions"):
        catalog.find("ask@2")
    with pytest.raises(InvalidInput, match="is a pipeline"):
        catalog.find(Graph(name="g", inputs=[], steps=[Step(name="a", model="ask", input=1)], output=1))
    with pytest.raises(InvalidInput, match="the input 'question' does not fit pipeline 'ask'"):
        catalog.find({"task": "penstock.ask", "args": [1], "kwargs": {}, "options": {}})
    canvas = catalog.find({"task": "penstock.ask", "args": ["why?"], "kwargs": {}, "options": {}}).pipeline
    assert canvas is not None, "in a canvas it is a step"


def test_what_is_announced_later_is_seen(catalog: Catalog, announced: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.dispatch.catalog.FRESH_S", 0.0)
    assert catalog.find("ask").pipeline is not None
    register(announced, "w2", pipelines={"ask": announcement(ask_again)})
    found = catalog.find("ask").pipeline
    assert found is not None and found.text == ask_again.text


# Graphs as data: checked by what workers announced ------------------------------------------------------------------


@penstock.model(name="vector")
def vector(batch: list[str]) -> list[list[float]]:
    """A vector of each."""
    return [[float(len(text))] for text in batch]


@penstock.step
def join(words: list[str], by: str = " ") -> str:
    """One text."""
    return by.join(words)


def drawn(*steps: Step) -> Graph:
    """A graph that came as data."""
    return Graph(name="drawn", inputs=["text"], steps=list(steps), output={"$out": steps[-1].name})


VECTOR = Step(name="v", model="vector", input={"$in": "text"})
BAD = [
    (
        Step(name="w", model="vector", input={"$out": "v"}),
        "step 'w': 'vector' takes str, and is given list[float] by 'v'",
    ),
    (Step(name="w", model="join", input={"words": {"$out": "v"}}), "'join' takes 'words' as list[str]"),
    (Step(name="w", model="join", input={"by": {"$out": "v"}}), "given no 'words', which 'join' needs"),
    (
        Step(name="w", model="join", input={"words": ["a"], "of": {"$out": "v"}}),
        "given 'of', which 'join' does not take",
    ),
]


@pytest.mark.parametrize(("step", "words"), BAD, ids=[words for _, words in BAD])
@pytest.mark.parametrize("known", ["announced", "here"])
def test_a_graph_that_can_never_work_is_no_run(
    store: Store, settings: Settings, step: Step, words: str, known: str
) -> None:
    if known == "announced":
        register(store, "w1", models=announce({"vector": vector, "join": join.model}))
        catalog = Catalog(settings, store)
    else:
        catalog = Catalog(settings, store, registry=Registry([vector, join.model]))
    assert catalog.find(drawn(VECTOR)).pipeline is not None
    with pytest.raises(InvalidInput) as raised:
        catalog.find(drawn(VECTOR, step))
    assert words in raised.value.message


def test_of_what_older_workers_and_other_versions_take_nothing_is_said(store: Store, settings: Settings) -> None:
    older = {name: {"version": "1"} for name in ("vector", "join")}
    register(store, "w1", models=older)
    for step, _ in BAD:
        assert Catalog(settings, store).find(drawn(VECTOR, step)).pipeline is not None
    register(store, "w1", models=announce({"vector": vector, "join": join.model}))
    step = Step(name="w", model="vector@9", input={"$out": "v"})
    assert Catalog(settings, store).find(drawn(VECTOR, step)).pipeline is not None
