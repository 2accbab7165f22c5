"""Celery's messages of pipelines: who takes them, where they go, and what their arguments mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.job import NewJob
from penstock.lane import PIPELINES, Lane, is_model_queue, queue_name
from penstock.pipelines.inputs import by_position
from penstock.routes import WorkerRoutes
from penstock.transport.message import canvas_of, encode, open_canvas, queue_of
from penstock_worker.canvas.tasks import Strategies

OURS = "penstock._pipelines"


def called(canvas: str | None, **fields: Any) -> NewJob:
    return NewJob(
        id="1", model="answer", input='{"x":1}', lane="background", accepted_at=0.0, available_at=0.0, canvas=canvas,
        **fields,
    )  # fmt: skip


def test_a_message_is_kept_whole_and_goes_back_to_the_queue_of_all_pipelines() -> None:
    body = [["x"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers = {"id": "1", "task": "penstock.answer"}
    kept = canvas_of(headers, json.dumps(body), {"reply_to": "me"}, run=True)
    found, again, properties = open_canvas(kept, '{"x":1}')
    assert (found, again, properties) == (headers, body, {"reply_to": "me"}), "not the inputs by name"
    assert queue_of(called(kept), "penstock") == "penstock._pipelines.background"
    message = json.loads(encode(called(kept), "penstock"))
    assert message["properties"]["delivery_info"]["routing_key"] == "penstock._pipelines.background"
    assert json.loads(message["body"]) == body
    member = canvas_of(headers, json.dumps(body), {})
    assert queue_of(called(member), "penstock") == queue_of(called(None), "penstock") == "penstock.answer.background"
    assert queue_of(called(member, asked_version="2"), "penstock") == "penstock.answer@2.background"


def test_the_queue_is_one_of_workers_and_no_models() -> None:
    for lane in Lane:
        assert is_model_queue(queue_name("penstock", PIPELINES, lane), "penstock")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("penstock.answer", "all"),
        ("penstock.score", "score"),
        (OURS, "all"),
        ("shop.report", None),
        ("answer", None),
        ("", None),
        (".answer", None),
        ("other._pipelines", None),
        (None, None),
        (7, None),
    ],
)
def test_what_a_worker_does_not_serve_is_taken_for_a_pipeline(name: Any, taken: str | None) -> None:
    strategies = Strategies({OURS: "all", "penstock.score": "score"})
    if taken is None:
        with pytest.raises(KeyError):
            strategies[name]
    else:
        assert strategies[name] == taken
    assert len(strategies) == 2, "names that anybody can make up are not kept"


def test_a_worker_that_serves_no_pipelines_takes_none() -> None:
    for name in ("penstock.answer", OURS):
        with pytest.raises(KeyError):
            Strategies({"penstock.score": "score"})[name]


def test_a_worker_sends_pipelines_that_it_knows_to_their_queue() -> None:
    route = WorkerRoutes("penstock", {"score"}, {"answer"})
    assert route("penstock.answer", (), {}, {}) == {"queue": "penstock._pipelines.interactive"}
    assert route("penstock.score", (), {}, {}) == {"queue": "penstock.score.interactive"}
    assert route("penstock.other", (), {}, {}) is None
    assert route("answer", (), {}, {}) is None


@pytest.mark.parametrize(
    ("args", "kwargs", "given"),
    [
        ((), {}, {}),
        ((1,), {}, {"a": 1}),
        ((1, 2), {}, {"a": 1, "b": 2}),
        ((1,), {"b": 2}, {"a": 1, "b": 2}),
        ((), {"b": 2, "a": None}, {"a": None, "b": 2}),
        (({"a": 1},), {}, {"a": {"a": 1}}),
        ((1, 2, 3), {}, "given 3 arguments, and takes 2"),
        ((1,), {"a": 2}, "given 'a' twice"),
        ((), {"c": 2}, "takes no 'c'"),
    ],
)
def test_arguments_are_bound_as_python_binds_them(args: Any, kwargs: Any, given: Any) -> None:
    if isinstance(given, dict):
        assert by_position("pipeline 'p'", ["a", "b"], args, kwargs) == given
    else:
        with pytest.raises(InvalidInput, match=f"pipeline 'p' .*{given}|pipeline 'p' is {given}"):
            by_position("pipeline 'p'", ["a", "b"], args, kwargs)
