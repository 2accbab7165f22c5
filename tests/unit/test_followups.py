"""The routes of what follows a model: frozen in the producer, by its own app, and only where a model's worker sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signals, signature
from celery.canvas import Signature
from kombu import Exchange, Queue
from kombu.common import Broadcast

import penstock
import penstock.app
from penstock.settings import Settings

# A task's own queue is set by what Celery wants to drop one day.
pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


@penstock.model(name="followed")
def followed(batch: list[Any]) -> list[Any]:
    """Gives back what it gets."""
    return batch


def same(x: Any = None) -> Any:
    """A plain task."""
    return x


MODEL = "penstock.followed"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A user's app, with queues of every kind and tasks of its own. It sends into the void of a memory broker."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    media = Exchange("media", type="topic")
    app.conf.update(
        task_default_queue="shop",
        task_queues=[
            Queue("shop", Exchange("shop"), routing_key="shop"),
            Queue("clips", media, routing_key="clip.#"),
            Broadcast("all", queue="all-1"),
        ],
        task_routes={
            "mail.*": {"queue": "mail", "priority": 6},
            "clip.*": {"exchange": "media", "routing_key": "clip.new"},
            "tell.*": {"exchange": "all", "exchange_type": "fanout"},
        },
    )
    # This app's alone: shared, they would be made in every later app of this process, and warn there.
    app.task(name="own", shared=False, queue="own-queue", priority=3, typing=False)(same)
    app.task(name="plain", shared=False, typing=False)(same)
    app.set_current()
    yield app
    Celery("default").set_current()
    app.close()


class Sent:
    """The messages of a canvas, as they are published."""

    def __init__(self, app: Celery, canvas: Signature, **options: Any) -> None:
        self.bodies: list[Any] = []
        send = app.amqp.send_task_message
        published = []

        class Producer:
            def __init__(self, producer: Any) -> None:
                self._producer = producer

            def __getattr__(self, name: str) -> Any:
                return getattr(self._producer, name)

            def publish(self, body: Any, **options: Any) -> Any:
                published.append(json.loads(json.dumps(body, default=dict)))
                return self._producer.publish(body, **options)

        app.amqp.__dict__["send_task_message"] = lambda producer, *a, **k: send(Producer(producer), *a, **k)
        try:
            self.result = canvas.apply_async(**options)
        finally:
            app.amqp.__dict__["send_task_message"] = send
        self.bodies = published

    @property
    def embed(self) -> dict[str, Any]:
        return self.bodies[0][2]


def options(sig: dict[str, Any]) -> dict[str, Any]:
    """The route of a signature in a message."""
    return {
        name: value
        for name, value in sig["options"].items()
        if name in ("queue", "exchange", "routing_key", "exchange_type", "priority")
    }


TASKS = {
    "unknown": {"queue": "shop"},
    "plain": {"queue": "shop"},
    "own": {"queue": "own-queue", "priority": 3},
    "mail.send": {"queue": "mail", "priority": 6},
    "clip.cut": {"exchange": "media", "routing_key": "clip.new", "exchange_type": "topic"},
    "tell.all": {"exchange": "all", "routing_key": "shop", "exchange_type": "fanout"},
}


@pytest.mark.parametrize("name", TASKS)
def test_a_step_behind_a_model_goes_where_its_app_would_send_it(app: Celery, name: str):
    sent = Sent(app, chain(followed.s(1), app.signature(name)))
    assert options(sent.embed["chain"][0]) == TASKS[name]


@pytest.mark.parametrize("name", TASKS)
def test_so_do_a_body_and_callbacks(app: Celery, name: str):
    assert options(Sent(app, chord([followed.s(1)], app.signature(name))).embed["chord"]) == TASKS[name]
    linked = Sent(app, followed.s(1), link=app.signature(name), link_error=[app.signature(name)]).embed
    assert options(linked["callbacks"][0]) == options(linked["errbacks"][0]) == TASKS[name]


def test_a_route_of_its_own_stays(app: Celery):
    own = [{"queue": "q"}, {"exchange": "media", "routing_key": "clip.x"}, {"queue": Queue("q")}]
    kept = [{"queue": "q"}, {"exchange": "media", "routing_key": "clip.x", "exchange_type": "topic"}, {"queue": "q"}]
    sent = [Sent(app, chain(followed.s(1), app.signature("mail.x", options=dict(route)))) for route in own]
    routes = [options(each.embed["chain"][0]) for each in sent]
    assert [{k: v for k, v in route.items() if k != "priority"} for route in routes] == kept


def test_models_keep_their_queues(app: Celery):
    sent = Sent(app, chain(followed.s(1), followed.s(lane="background"), app.signature("plain")))
    plain, background = sent.embed["chain"]
    assert options(background) == {"queue": f"{MODEL}.background"}
    assert options(plain) == {"queue": "shop"}


def test_what_a_plain_worker_sends_is_left_to_it(app: Celery):
    plain = app.signature("plain")
    sent = Sent(app, chain(plain.clone(), plain.clone(), followed.s(), plain.clone(), plain.clone()))
    last, after, model, before = sent.embed["chain"]
    assert [options(step) for step in (before, model, after, last)] == [
        {},
        {"queue": f"{MODEL}.interactive"},
        {"queue": "shop"},
        {},
    ]
    assert options(Sent(app, chain(plain.clone(), plain.clone())).embed["chain"][0]) == {}


def test_nested_canvases(app: Celery):
    plain = app.signature("plain")
    header = group(plain.clone(), chain(followed.s(), plain.clone()))
    sent = Sent(app, chain(followed.s(1), header, plain.clone()))
    (upgraded,) = sent.embed["chain"]
    first, second = upgraded["kwargs"]["header"]["kwargs"]["tasks"]
    # The model's worker sends the header, and what follows the model in it. The body is sent by who ends the header.
    assert options(first) == {"queue": "shop"}
    assert [options(step) for step in second["kwargs"]["tasks"]] == [
        {"queue": f"{MODEL}.interactive"},
        {"queue": "shop"},
    ]
    assert options(upgraded["kwargs"]["body"]) == {}


def test_the_body_of_a_chord_that_a_model_may_end(app: Celery):
    plain = app.signature("plain")
    header = [plain.clone(), chain(plain.clone(), chord([plain.clone()], followed.s()))]
    sent = Sent(app, chain(followed.s(1), chord(header, chain(group(plain.clone(), plain.clone()), plain.clone()))))
    (inner,) = sent.embed["chain"]
    body = inner["kwargs"]["body"]
    begins = [options(sig) for sig in walk(body) if sig["task"] == "plain"]
    # The group of the body begins with what the model may send; what ends it is for plain workers.
    assert sorted(map(json.dumps, begins)) == sorted(map(json.dumps, [{"queue": "shop"}, {"queue": "shop"}, {}])), body


def test_a_callback_of_a_callback(app: Celery):
    model = followed.s()
    model.link(app.signature("plain"))
    sent = Sent(app, app.signature("plain", args=(1,)), link=model, link_error=app.signature("plain"))
    (callback,) = sent.embed["callbacks"]
    assert options(callback["options"]["link"][0]) == {"queue": "shop"}
    # A plain worker sends its own error callbacks.
    assert options(sent.embed["errbacks"][0]) == {}


def test_error_callbacks_of_a_body(app: Celery):
    body = app.signature("plain")
    body.link_error(app.signature("own"))
    sent = Sent(app, chord([chain(followed.s(1), app.signature("plain"))], body))
    chained = sent.embed["chain"][0]["options"]["chord"]
    assert options(chained["options"]["link_error"][0]) == TASKS["own"]


@pytest.mark.parametrize("kind", ["xmap", "xstarmap", "chunks"])
def test_maps_and_chunks_go_the_way_of_what_they_map(app: Celery, kind: str):
    items = (app.signature("mail.send"), [(1,), (2,), (3,)], *([2] if kind == "chunks" else []))
    mapped = Sent(app, chain(followed.s(1), Signature.TYPES[kind](*items, app=app))).embed["chain"][0]
    assert options(mapped) == TASKS["mail.send"]
    assert mapped["kwargs"]["it"] == [[1], [2], [3]]


def test_the_signatures_of_the_program_are_not_changed(app: Celery):
    step, errback = app.signature("plain"), app.signature("own")
    canvas = chain(followed.s(1), step)
    canvas.link_error(errback)
    Sent(app, canvas)
    Sent(app, followed.s(1), link=step, link_error=errback)
    assert not any(
        options(sig)
        for sig in walk(json.loads(json.dumps([canvas, step, errback], default=dict)))
        if "penstock" not in sig["task"]
    )


def test_ids_stamps_and_headers_are_untouched(app: Celery):
    canvas = chain(followed.s(1), app.signature("plain").set(task_id="mine", headers={"h": 1}))
    canvas.stamp(run="7")
    sent = Sent(app, canvas)
    step = sent.embed["chain"][0]["options"]
    assert (step["task_id"], step["headers"], step["run"], step["stamped_headers"]) == ("mine", {"h": 1}, "7", ["run"])
    assert sent.result.id == "mine"


def test_protocol_1(app: Celery):
    app.conf.task_protocol = 1
    sent = Sent(app, followed.s(1), link=app.signature("mail.x"), link_error=app.signature("plain"))
    assert options(sent.bodies[0]["callbacks"][0]) == TASKS["mail.send"]
    assert options(sent.bodies[0]["errbacks"][0]) == {"queue": "shop"}


def test_a_router_that_fails_costs_the_message_nothing(app: Celery):
    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "odd":
            raise RuntimeError("no route")
        return None

    app.conf.task_routes = [broken]
    app.amqp.flush_routes()
    app.amqp.__dict__.pop("router", None)
    sent = Sent(app, chain(followed.s(1), app.signature("plain"), app.signature("odd")))
    assert options(sent.embed["chain"][-1]) == {"queue": "shop"}
    odd = Sent(app, chain(followed.s(1), app.signature("odd")))
    assert options(odd.embed["chain"][0]) == {}


def test_a_signature_without_an_app_is_the_senders(app: Celery):
    sent = Sent(app, chain(followed.s(1), signature("mail.x")))
    assert options(sent.embed["chain"][0]) == TASKS["mail.send"]
    sent = Sent(app, followed.s(1), link=[dict(signature("mail.x"))])
    assert options(sent.embed["callbacks"][0]) == TASKS["mail.send"]


def walk(sig: Any) -> Iterator[dict[str, Any]]:
    """Every signature in what was sent."""
    if isinstance(sig, list):
        for each in sig:
            yield from walk(each)
    elif isinstance(sig, dict):
        if "task" in sig and "options" in sig:
            yield sig
        for value in sig.values():
            yield from walk(value)


# The worker's side -------------------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[Celery]:
    """A worker's app, as far as it sends; its broker is the memory of this process."""
    settings = Settings.load(celery={"default_queue": "theirs"})
    app = penstock.app.make_celery(settings, models=["served"], known={"served", "followed"})
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")
    yield app
    app.close()


def routed(worker: Celery, name: str, **options: Any) -> dict[str, Any]:
    """Where the worker's app publishes a signature with these options."""
    seen: dict[str, Any] = {}

    def note(exchange: Any = None, routing_key: Any = None, declare: Any = None, **_: Any) -> None:
        declared = [(type(each).__name__, each.name, getattr(each, "type", None)) for each in declare or ()]
        seen.update(exchange=exchange, routing_key=routing_key, declared=declared)

    signals.before_task_publish.connect(note, weak=False)
    try:
        worker.signature(name, options=options).apply_async()
    finally:
        signals.before_task_publish.disconnect(note)
    return seen


def test_a_worker_sends_what_has_no_route_to_the_default_queue(worker: Celery):
    assert routed(worker, "anybody.knows")["routing_key"] == "theirs"
    assert routed(worker, "celery.accumulate")["routing_key"] == "theirs"
    assert routed(worker, "penstock.unknown")["routing_key"] == "theirs"
    assert "theirs" not in worker.amqp.queues.consume_from


def test_a_worker_knows_the_queues_of_models(worker: Celery):
    for name in ("served", "followed"):
        assert routed(worker, f"penstock.{name}")["routing_key"] == f"penstock.{name}.interactive"
    assert routed(worker, "penstock.served", queue="elsewhere")["routing_key"] == "elsewhere"


def test_a_worker_obeys_frozen_routes(worker: Celery):
    assert routed(worker, "x", queue="plain")["routing_key"] == "plain"
    topic = routed(worker, "x", exchange="media", routing_key="clip.new", exchange_type="topic")
    assert (topic["exchange"], topic["routing_key"]) == ("media", "clip.new")
    # On Redis only who declares an exchange knows that it is no direct one.
    assert topic["declared"] == [("Exchange", "media", "topic")]
