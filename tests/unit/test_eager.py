"""Models in a Celery program that runs its tasks in its own process, and their short forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group

import penstock
from penstock.errors import ConfigError, InvalidInput
from penstock.signatures import model_signature
from tests.fixtures import celeryapps


@penstock.model(name="shouter", max_size=4)
def shouter(batch: list[str]) -> list[str]:
    """Upper case."""
    return [text.upper() for text in batch]


@penstock.model(name="joiner")
def joiner(batch: list[list[str]]) -> list[object]:
    """Joins."""
    return [ValueError("empty") if not texts else "+".join(texts) for texts in batch]


@pytest.fixture
def app() -> Iterator[Celery]:
    """The program's own app, current and eager."""
    app = Celery("program", broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, task_store_eager_result=False)
    with celeryapps.current(app):
        yield app


def test_an_eager_program_runs_models_itself(app: Celery) -> None:
    assert shouter.s("a").apply_async().get() == "A"
    assert shouter.s("a").delay().get() == shouter.delay("a").get() == "A"
    assert shouter.apply_async(("a",), lane="background", countdown=5).get() == "A"
    assert shouter.s("a").apply().get() == shouter.apply(("a",)).get() == shouter.s("a")() == "A"
    assert chain(shouter.s("a"), shouter.s()).apply_async().get() == "A"
    assert chain(shouter.s("a"), shouter.si("b")).apply_async().get() == "B"
    assert group(shouter.s(x) for x in "ab").apply_async().get() == ["A", "B"]
    assert chord([shouter.s(x) for x in "ab"], joiner.s()).apply_async().get() == "A+B"


def test_it_meets_the_same_errors(app: Celery) -> None:
    with pytest.raises(InvalidInput):
        shouter.s(3).apply_async().get()
    with pytest.raises(ValueError, match="empty"):
        joiner.s([]).apply_async().get()
    with pytest.raises(ConfigError, match="only its name"):
        model_signature("shouter", ("a",), {}).apply_async().get()


@pytest.mark.parametrize(
    "call", [lambda: shouter.map("ab"), lambda: shouter.starmap([]), lambda: shouter.chunks([], 2)]
)
def test_what_would_run_items_one_by_one_is_refused(call: Any) -> None:
    with pytest.raises(ConfigError, match="one after the other"):
        call()


def test_a_signature_that_is_sent_holds_nothing_of_the_class() -> None:
    sent = dict(shouter.si("a", lane="background"))
    assert sent["task"] == "penstock.shouter" and sent["immutable"] and sent["args"] == ("a",)
    assert sent["options"] == {"queue": "penstock.shouter.background"}
