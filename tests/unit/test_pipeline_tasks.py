"""Plain Celery tasks in canvases as steps: the values that Celery would give, what is sent, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import chunks, xmap, xstarmap
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue

from penstock.dispatch.tasks.endings import end_of
from penstock.dispatch.tasks.routing import route_by, same_broker
from penstock.errors import InvalidInput
from penstock.pipelines import memory
from penstock.pipelines.canvas.reading import Translated, translate
from penstock.pipelines.canvas.signature import Signature
from penstock.pipelines.graph import Graph, Step, read, verify
from penstock.pipelines.local import run as run_local
from penstock.pipelines.show.draw import draw
from penstock.pipelines.show.mermaid import mermaid
from penstock.pipelines.task import Task
from penstock.settings import Settings
from tests.fixtures import celeryapps

app = Celery("program", broker="redis://localhost:6379/0", backend="cache+memory://", set_as_current=False)
app.conf.task_default_queue = "shop"
app.conf.task_routes = {"shop.limited": "slow"}


@app.task(name="shop.t", shared=False, lazy=False)
def t_task(*args: Any, **kwargs: Any) -> Any:
    return ["t", list(args), kwargs]


@app.task(name="shop.u", shared=False, lazy=False)
def u_task(*args: Any, **kwargs: Any) -> Any:
    return ["u", list(args), kwargs]


@app.task(name="penstock.m", shared=False, lazy=False)
def m_task(*args: Any, **kwargs: Any) -> Any:
    return ["m", args[0] if len(args) == 1 else list(args)]


@app.task(name="shop.limited", shared=False, time_limit=9, expires=60, ignore_result=True, lazy=False)
def limited() -> None: ...


@pytest.fixture(scope="module", autouse=True)
def _current() -> Iterator[None]:
    with celeryapps.current(app):
        yield


def t(*args: Any, **kwargs: Any) -> Any:
    return app.signature("shop.t", args=args, kwargs=kwargs)


def u(*args: Any, **kwargs: Any) -> Any:
    return app.signature("shop.u", args=args, kwargs=kwargs)


def ti(*args: Any, **kwargs: Any) -> Any:
    return app.signature("shop.t", args=args, kwargs=kwargs, immutable=True)


def m(*args: Any) -> Any:
    return app.signature("penstock.m", args=args)


def mi(*args: Any) -> Any:
    return app.signature("penstock.m", args=args, immutable=True)


def g(*members: Any) -> Any:
    return group(list(members), app=app)


def to_shop(signature: Signature, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """A program with one queue."""
    return {"queue": options.get("queue", "shop")}


def translated(canvas: Any) -> Translated:
    """Of the object and of its JSON alike."""
    result = translate(canvas, namespace="penstock", route=to_shop)
    assert translate(json.loads(json.dumps(canvas)), namespace="penstock", route=to_shop) == result
    assert read(result.graph.to_json()) == result.graph
    return result


def run(canvas: Any) -> Any:
    """What a run of it gives."""
    graph, inputs, _ = translated(canvas)

    def call(step: Step, items: Sequence[Any]) -> list[Any]:
        if step.task is None:
            return [["m", item] for item in items]
        name = step.task.name.removeprefix("shop.")
        return [[name, item["args"], item["kwargs"]] for item in items]

    return memory.run(graph, inputs, call)


def calls(first: bool) -> st.SearchStrategy[Any]:
    numbers = st.integers(0, 9)
    own = st.lists(numbers, min_size=1, max_size=2)
    tasks = st.sampled_from([t, u])
    given = [
        st.tuples(tasks, own).map(lambda made: made[0](*made[1])),
        st.tuples(tasks, own).map(lambda made: made[0](*made[1], k=1)),
        own.map(lambda args: ti(*args)),
        own.map(lambda args: ti(*args, k=2)),
        numbers.map(m),
        numbers.map(mi),
    ]
    return st.one_of(*given, st.just(t()), st.just(m()), st.just(t(k=3))) if not first else st.one_of(*given)


def canvases(depth: int, first: bool = True) -> st.SearchStrategy[Any]:
    """Canvases as programs write them; ``first`` where no result comes before."""
    if depth == 0:
        return calls(first)
    begin, follow = canvases(depth - 1, first), canvases(depth - 1, first=False)
    chained = st.tuples(begin, st.lists(follow, min_size=1, max_size=3))
    # Of one and of none, Celery alone in its process gives something else than its workers do.
    beside = st.lists(begin, min_size=2, max_size=3)
    return st.one_of(
        calls(first),
        chained.map(lambda steps: chain(steps[0], *steps[1])),
        beside.map(lambda members: g(*members)),
        st.tuples(beside, follow).map(lambda parts: chord(*parts)),
    )


@given(canvas=canvases(3))
def test_random_canvases_give_what_celery_gives_in_one_process(canvas: Any) -> None:
    if canvas["subtask_type"] == "group":
        canvas = g(ti(0), canvas)
    assert run(canvas) == json.loads(json.dumps(canvas.clone().apply().get()))


@pytest.mark.parametrize(
    ("canvas", "value"),
    [
        (t(1, k=2), ["t", [1], {"k": 2}]),
        (chain(t(1), t(2, k=3)), ["t", [["t", [1], {}], 2], {"k": 3}]),
        (xmap(t(), [1, [2]]), [["t", [1], {}], ["t", [[2]], {}]]),
        (xstarmap(t(), [(1, 2), ()]), [["t", [1, 2], {}], ["t", [], {}]]),
        (chunks(t(), [(1,), (2,), (3,)], 2), [[["t", [1], {}], ["t", [2], {}]], [["t", [3], {}]]]),
        (chain(m(1), xmap(t(), [1])), [["t", [1], {}]]),
        (g(*(t(n) for n in range(3000))), [["t", [n], {}] for n in range(3000)]),
        (chain(m(1), g(*(ti(n) for n in range(2)))), [["t", [0], {}], ["t", [1], {}]]),
    ],
)
def test_values(canvas: Any, value: Any) -> None:
    assert run(canvas) == value


def waits(canvas: Any) -> dict[str, list[str]]:
    """The steps that each step waits for."""
    from penstock.pipelines.graph import parents

    return {step.name: parents(step) for step in translated(canvas).graph.steps}


def test_what_ignores_a_result_comes_behind_a_task_all_the_same() -> None:
    """A task is called for what it does."""
    assert waits(chain(t(1), ti(2), mi(3))) == {"shop.t": [], "shop.t-2": ["shop.t"], "m": ["shop.t-2"]}
    assert waits(chain(m(1), ti(2))) == {"m": [], "shop.t": ["m"]}
    assert waits(chain(t(1), g(mi(1), mi(2)))) == {"shop.t": [], "m": ["shop.t"]}
    assert waits(chain(t(1), xmap(m(), [1]))) == {"shop.t": [], "m": ["shop.t"]}
    assert waits(chain(m(1), mi(2))) == {"m": [], "m-2": []}, "models may run beside each other"


def test_a_link_is_a_step_that_nobody_uses() -> None:
    linked = chain(t(1).set(link=[u(5), m()]), t())
    assert waits(linked) == {"shop.t": [], "shop.u": ["shop.t"], "m": ["shop.t"], "shop.t-2": ["shop.t"]}
    assert run(linked) == ["t", [["t", [1], {}]], {}]


def test_calls_that_are_sent_alike_are_one_map() -> None:
    def shapes(*members: Any) -> list[bool]:
        return [step.maps for step in translated(g(*members)).graph.steps]

    assert shapes(t(1), t(2), t(3)) == [True]
    assert shapes(t(1), t(2).set(queue="slow")) == [False, False]
    assert shapes(t(1), t(2).set(countdown=5)) == [False, False]
    assert shapes(t(1), u(2)) == [False, False]


def test_names_of_steps_are_made_of_any_tasks_name() -> None:
    names = ("a:b/c", "9 lives", ".hidden", "x" * 300)
    found = [app.signature(name if len(name) < 255 else "x" * 255) for name in names]
    graph = translated(g(*found)).graph
    assert [step.name for step in graph.steps] == ["a_b_c", "_9_lives", "hidden", "x" * 100]
    assert draw(graph) and "a#58;b#47;c" in mermaid(graph)


def said(signature: Any) -> Step:
    """The one step of a task, of an object whose times JSON would write as text."""
    [step] = translate(signature, namespace="penstock", route=to_shop).graph.steps
    return step


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({}, {}),
        ({"queue": "slow", "priority": 3}, {"queue": "slow", "priority": 3}),
        ({"countdown": 5, "expires": 60}, {"countdown": 5.0, "expires": 60.0}),
        ({"eta": datetime.fromtimestamp(107, UTC)}, {"eta": 107.0}),
        ({"eta": "1970-01-01T00:01:00+00:00"}, {"eta": 60.0}),
        ({"expires": "1970-01-01T00:02:00+00:00"}, {"expires_at": 120.0}),
        ({"time_limit": 9, "soft_time_limit": 7.5}, {"time_limit": 9.0, "soft_time_limit": 7.5}),
        ({"ignore_result": True, "headers": {"mine": 1}}, {"ignore_result": True, "headers": {"mine": 1}}),
        ({"penstock": {"resend": True}}, {"resend": True}),
        ({"task_id": "x", "retry": False, "serializer": "json", "link": [], "shadow": "y"}, {}),
    ],
)  # fmt: skip
def test_what_a_signature_says_of_its_message(options: Any, task: Any) -> None:
    assert said(t(1).set(**options)).task == Task(**({"name": "shop.t", "queue": "shop"} | task))


def test_what_a_signature_says_of_the_wait_for_it() -> None:
    assert said(t(1).set(penstock={"timeout": 60})).timeout == 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"link_error": t()}, "has an error callback.*webhook"),
        ({"stamped_headers": ["x"], "x": 1}, "is stamped.*tags"),
        ({"routing_key": "x"}, "is sent through an exchange.*queue"),
        ({"exchange": "x"}, "is sent through an exchange"),
        ({"chain": [t()]}, r"write chain\("),
        ({"colour": "red"}, "the option 'colour'"),
        ({"serializer": "pickle"}, "is sent as 'pickle'.*JSON"),
        ({"queue": "penstock.m.interactive"}, "penstock's own"),
        ({"queue": "penstock:dead"}, "penstock's own"),
        ({"queue": "penstock.returns"}, "penstock's own"),
        ({"queue": ""}, "whose queue is ''"),
        ({"priority": 11}, "priority=11"),
        ({"priority": "high"}, "priority='high'.*whole number"),
        ({"countdown": -1}, "countdown=-1.*seconds"),
        ({"countdown": float("nan")}, "countdown=nan"),
        ({"expires": "soon"}, "expires='soon'.*aware datetime"),
        ({"eta": datetime(2030, 1, 1)}, "eta=.*aware datetime"),
        ({"headers": [1]}, "headers=.*object"),
        ({"penstock": {"tenant": "acme"}}, r"penstock=.*enqueue"),
        ({"penstock": {"resend": 1}}, "resend=1.*True or False"),
        ({"penstock": {"timeout": 0}}, "timeout=0.*more than 0"),
    ],
)
def test_what_a_run_cannot_keep_is_refused_by_name(options: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s)shop.t.*{words}|{words}"):
        said(t(1).set(**options))


def test_arguments_have_to_be_json() -> None:
    with pytest.raises(InvalidInput, match="set"):
        said(t({1}))


SETTINGS = Settings(broker_url="redis://127.0.0.1:6379/0")


def routed(signature: Any, settings: Settings = SETTINGS) -> Task:
    [step] = translate(signature, namespace="penstock", route=route_by(settings)).graph.steps
    assert step.task is not None
    return step.task


def test_a_task_is_sent_as_its_app_would_send_it() -> None:
    assert routed(t()).queue == "shop"
    assert routed(t().set(queue="other")).queue == "other"
    assert routed(t().set(queue=Queue("other"))).queue == "other"
    assert routed(limited.s()) == Task(
        name="shop.limited", queue="slow", time_limit=9.0, expires=60.0, ignore_result=True
    )
    assert routed(limited.s().set(time_limit=5, queue="shop")).time_limit == 5.0
    assert routed(chain(g(limited.s()))).queue == "slow", "in a canvas, too"
    routes = Celery("routes", broker="redis://localhost/0", set_as_current=False)
    routes.conf.task_routes = {"shop.*": "routed", "fan.*": {"exchange": "e", "routing_key": "k"}}
    assert routed(routes.signature("shop.t")).queue == "routed"
    with pytest.raises(InvalidInput, match="exchange"):
        routed(routes.signature("fan.out"))
    # Celery forgets the app of a link that it copies.
    other = Celery("other", broker="redis://localhost/0", set_as_current=False)
    other.conf.task_default_queue = "others"
    mine, chained = other.signature("shop.t"), chain(other.signature("shop.t").set(link=other.signature("shop.u")))
    for canvas in (chain(chained, mine), chord([mine], mine), chained, xmap(mine, [1])):
        graph = translate(canvas, namespace="penstock", route=route_by(SETTINGS)).graph
        assert {step.task.queue for step in graph.steps if step.task} == {"others"}
    other.close()
    # As JSON nobody knows whose it is.
    assert routed(json.loads(json.dumps(t()))).queue == "shop", "the program's own app"
    routes.close()


def test_without_an_app_a_task_goes_to_the_default_queue() -> None:
    route = route_by(SETTINGS.model_copy(update={"celery": SETTINGS.celery.model_copy(update={"default_queue": "d"})}))
    nobody = Celery("default", set_as_current=False)
    signature = Signature("shop.t", [], {}, {}, immutable=False, app=nobody)
    assert route(signature, {}) == {"queue": "d"}
    assert route(signature, {"queue": Queue("mine")}) == {"queue": "mine"}


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"broker_url": "amqp://guest:secret@rabbit//"}, r"whose broker is amqp://…; runs send to redis://127"),
        ({"broker_url": "redis://:secret@localhost:6379/1"}, "redis://localhost:6379/1; runs send to"),
        ({"broker_transport_options": {"global_keyprefix": "x"}}, "global_keyprefix"),
        ({"task_serializer": "pickle"}, "task_serializer='pickle'.*runs are JSON"),
        ({"accept_content": ["yaml"]}, "accept_content=.*runs are JSON"),
        ({"task_create_missing_queues": False}, r"add Queue\('penstock.returns'\)"),
        ({"task_create_missing_queues": False, "task_queues": [Queue("penstock.returns")]}, "no route for it"),
    ],
)
def test_an_app_that_a_run_cannot_speak_with_is_refused_by_name(conf: Any, words: str) -> None:
    other = Celery("other", broker="redis://localhost/0", set_as_current=False)
    other.conf.update(conf)
    with pytest.raises(InvalidInput, match=f"(?s){words}") as refused:
        routed(other.signature("shop.t"))
    assert "secret" not in str(refused.value)
    other.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://localhost", "redis://127.0.0.1:6379/0", True),
        ("redis://user:x@host:1/2", "redis://host:1/2", True),
        ("redis+socket:///a?virtual_host=1", "unix:///a?db=1", True),
        ("redis+socket:///a", "redis+socket:///b", False),
        ("redis://host/0", "redis://host/1", False),
        ("redis://host/0", "rediss://host/0", False),
        ("memory://", "redis://host/0", False),
    ],
)
def test_brokers_are_compared_by_their_places(one: str, other: str, same: bool) -> None:
    assert same_broker(one, other) is same


TASK = Task(name="shop.t", queue="shop")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "task"}, "names none"),
        ({"kind": "task", "task": Task(name="", queue="shop")}, "whose name is ''"),
        ({"kind": "task", "task": Task(name="a", queue="a\nb")}, "whose queue is"),
        ({"kind": "task", "task": TASK, "model": "m"}, "has no model"),
        ({"kind": "task", "task": TASK, "retry": 1}, "no retry here.*autoretry_for"),
        ({"kind": "call", "model": "m", "task": TASK}, "is a call, and has a task"),
        ({"kind": "task", "task": Task(name="a", queue="b", priority=10)}, "priority=10"),
        ({"kind": "task", "task": Task(name="a", queue="b", time_limit=-1.0)}, "time_limit=-1"),
        ({"kind": "task", "task": Task(name="a", queue="b", eta=1e300)}, r"eta=1e\+300"),
    ],
)
def test_a_graph_with_a_task_that_cannot_be_sent_is_none(fields: Any, words: str) -> None:
    step = Step(name="a", input={"args": [], "kwargs": {}}, **fields)
    with pytest.raises(InvalidInput, match=f"(?s){words}"):
        verify(Graph(name="x", inputs=[], steps=[step], output={"$out": "a"}))


def test_a_graph_with_tasks_is_not_run_without_servers() -> None:
    graph = translated(t(1)).graph
    with pytest.raises(InvalidInput, match=r"(?s)plain Celery task 'shop\.t'.*servers"):
        run_local(graph, {"shop.t": {"args": [1], "kwargs": {}}}, lambda *_: [], {})


def test_a_result_that_cannot_be_read_is_none() -> None:
    for text in (None, b"", b"\x80\x04pickled", b"[]", b'{"status": 7}', b'{"status": "SUCCESS"' * 9):
        assert end_of("id", 1, text, 100) is None
