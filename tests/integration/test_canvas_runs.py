"""The same canvases sent through Celery and run by the client, on the same real worker: the same values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.canvas import chunks, xmap

import penstock
from penstock import AsyncClient, Client, IdempotencyConflict, InvalidInput, JobFailed, UnknownModel
from penstock.errors import TooLarge
from penstock.lane import queue_name, task_name
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.task import Task
from penstock.settings import Settings
from tests.fixtures import celeryapps
from tests.fixtures.models import echo, inc, total
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import unrefused


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return unrefused(settings)


@pytest.fixture
def program(settings: Settings) -> Iterator[Celery]:
    with celeryapps.program("program", settings.broker) as app:
        yield app


def signer(app: Celery | None, namespace: str, *, immutable: bool = False) -> Callable[..., Any]:
    """``echo`` gives back what it is given, so that every value says how it came about."""

    def sign(model: str, *args: Any, **kwargs: Any) -> Any:
        options = {"queue": queue_name(namespace, model, "interactive")}
        name = task_name(namespace, model)
        return signature(name, args=args, kwargs=kwargs, options=options, immutable=immutable, app=app)

    return sign


def shapes(app: Celery, namespace: str) -> dict[str, Any]:
    s, si = signer(app, namespace), signer(app, namespace, immutable=True)

    def g(*members: Any) -> Any:
        return group(list(members), app=app)

    two = [s("echo", 1), s("inc", 1)]
    return {
        "one": s("inc", 1),
        "chain": chain(s("inc", 1), s("inc"), s("inc")),
        "partial": chain(s("echo", 1), s("echo", "x", "y"), s("echo", 2)),
        "named": chain(s("echo", 1), si("echo", x=2), s("echo")),
        "group": g(s("inc", 1), s("echo", 2), g(s("echo", 3))),
        "group of one": g(s("inc", 1)),
        "group of none": g(),
        "group of 500": g(*(s("inc", n) for n in range(500))),
        "chord": chord(two, s("total")),
        "chord of one": g(s("echo", 5)) | s("echo"),
        "chord of none": chord([], s("echo", 7)),
        "chord of 500": chain(g(*(s("inc", n) for n in range(500))), s("total")),
        "fan out": chain(s("inc", 1), g(s("inc"), s("echo", "x"), si("echo", 9))),
        "diamond": chain(s("inc", 1), g(s("inc"), s("echo")), s("total"), s("inc")),
        "group of one in a chain": chain(s("inc", 1), g(s("inc")), s("inc")),
        "nothing in a chain": chain(s("inc", 1), g(), s("inc")),
        "two groups": chain(g(*two), g(s("total"), s("echo"))),
        "chord in chain in group": g(
            chain(s("inc", 1), chord([s("inc"), s("echo")], s("total")), s("inc")), s("echo", 4)
        ),
        "nested chords": chord([chord(two, s("total")), s("inc", 5)], chord([s("total"), s("echo")], s("echo"))),
        "chord ending in a group": chord([chain(s("inc", 1), g(s("inc"), s("echo"))), s("echo", 3)], s("echo")),
        "group of one that ends in a group": g(chain(s("inc", 1), g(s("inc"), s("echo")))),
        "chain of chains": chain(chain(s("inc", 1), s("inc")), chain(s("inc"), s("echo", "x"))),
    }


def test_a_run_gives_what_the_same_canvas_gives_as_celery(
    settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, sdk: Client, program: Celery
) -> None:
    worker_factory()
    sent = {name: shape.apply_async() for name, shape in shapes(program, settings.namespace).items()}
    submitted = {name: sdk.enqueue(shape) for name, shape in shapes(program, settings.namespace).items()}
    values = {name: job.result(PATIENCE_S) for name, job in submitted.items()}
    assert values == {name: result.get(timeout=PATIENCE_S) for name, result in sent.items()}
    # Spot checks: two ways that are wrong alike would agree.
    assert (values["group of none"], values["diamond"], values["chord of 500"]) == ([], 6, 125_250)


def test_what_else_a_canvas_may_have(
    settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, sdk: Client
) -> None:
    """Maps, links, failures, coroutines."""
    worker_factory()
    s = signer(None, settings.namespace)
    assert sdk.run(xmap(s("inc"), [1, 2, 3]), result_timeout=PATIENCE_S) == [2, 3, 4]
    assert sdk.run(chunks(s("inc"), [(1,), (2,), (3,)], 2), result_timeout=PATIENCE_S) == [[2, 3], [4]]
    # A link is called, though nobody uses what it gives, and the run is not done without it.
    linked = chain(s("inc", 1).set(link=s("echo", "linked"), ignore_result=True), s("inc"))
    job = sdk.enqueue(linked, tags={"test": "link"})
    assert job.result(PATIENCE_S) == 3
    assert [each.id for each in sdk.list(tag="test=link")] == [job.id]
    assert job.refresh().model == "canvas"
    # One that fails fails the run.
    failing = sdk.enqueue(chain(s("inc", 1).set(link=s("fail")), s("inc")))
    with pytest.raises(JobFailed, match="no good: 2"):
        failing.result(PATIENCE_S)
    # A step that fails is told by name, with its error.
    failed = sdk.enqueue(chain(s("inc", 1), s("fail"), s("inc")))
    with pytest.raises(JobFailed, match="no good: 2"):
        failed.result(PATIENCE_S)
    assert failed.error is not None and failed.error["step"] == "fail"

    async def run() -> Any:
        async with AsyncClient(settings) as client:
            return await client.run(chain(s("inc", 1), s("inc")), result_timeout=PATIENCE_S)

    assert asyncio.run(run()) == 3


@penstock.pipeline
def twice(x: int) -> Any:
    """Two ways that part and meet, and a list."""
    first = inc(x)
    return total([inc(first), total([inc(first), echo(8)]), inc(9)])


def test_a_pipeline_its_canvas_and_the_run_of_that_agree(
    settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, sdk: Client, program: Celery
) -> None:
    worker_factory()
    canvas = program.signature(json.loads(json.dumps(twice.canvas(x=1))))
    sent = canvas.apply_async()
    assert sdk.run(twice, {"x": 1}, result_timeout=PATIENCE_S) == 24
    assert sdk.run(canvas, result_timeout=PATIENCE_S) == sent.get(timeout=PATIENCE_S) == 24


def test_a_canvas_whose_graph_is_too_large_is_refused(settings: Settings) -> None:
    s = signer(None, settings.namespace)
    wide = [group([s(model, *own) for _ in range(100) for model in ("inc", "echo")]) for own in ((1,), ())]
    small = settings.model_copy(update={"job": settings.job.model_copy(update={"max_input_bytes": 100_000})})
    with Client(small) as client, pytest.raises(TooLarge, match="bytes as a graph"):
        client.enqueue(chain(*wide))


def test_what_is_refused_is_not_stored(settings: Settings, sdk: Client) -> None:
    s, si = signer(None, settings.namespace), signer(None, settings.namespace, immutable=True)
    # Of an app of its own: whatever another test has made the current one may have another broker.
    report = Celery(broker=settings.broker, set_as_current=False).signature("shop.report")
    with pytest.raises(UnknownModel, match="'inncc'"):
        sdk.enqueue(chain(s("inc", 1), s("inncc")))
    with pytest.raises(InvalidInput, match="does not fit model 'inc'"):
        sdk.enqueue(chain(s("echo", 1), group([s("echo"), chain(si("inc", "one"), s("echo"))])))
    with pytest.raises(InvalidInput, match=r"shop\.report has penstock="):
        sdk.enqueue(chain(s("inc", 1), report.set(penstock={"tenant": "acme"})))
    shop = Task(name="shop.report", queue="shop")
    step = Step(name="a", kind="task", task=shop, input={"args": [], "kwargs": {}})
    inner = Step(name="b", kind="run", graph=Graph(name="x", inputs=[], steps=[step], output=None), input={})
    for steps in ([step], [inner]):
        with pytest.raises(InvalidInput, match=r"plain Celery task 'shop\.report', as a canvas alone may"):
            sdk.enqueue(Graph(name="x", inputs=[], steps=steps, output=None), {})
    with pytest.raises(InvalidInput, match="a canvas is given 3"):
        sdk.enqueue(s("inc", 1), 3)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="enqueued one by one"):
        sdk.enqueue_many(s("inc", 1), [3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="there is no input"):
        sdk.enqueue("inc")  # type: ignore[call-overload]
    assert sdk.list() == []


def test_a_run_is_whose_its_first_model_says(settings: Settings, sdk: Client) -> None:
    s = signer(None, settings.namespace)
    first = s("inc", 1).set(penstock={"tenant": "acme", "tags": {"k": "v"}}, priority=3, countdown=60)
    job = sdk.enqueue(chain(first, s("inc"))).refresh()
    assert (job.tenant, job.tags, job.priority, job.status) == ("acme", {"k": "v"}, 3, "accepted")
    assert job.available_at - job.ledger.accepted_at == 60
    told = sdk.enqueue(chain(first, s("inc")), tenant="other", delay=None).refresh()
    assert (told.tenant, told.tags, told.status) == ("other", {"k": "v"}, "running")


def test_the_same_key_means_the_same_canvas(settings: Settings, sdk: Client) -> None:
    s = signer(None, settings.namespace)
    job = sdk.enqueue(chain(s("inc", 1), s("echo")), idempotency_key="k")
    assert sdk.enqueue(chain(s("inc", 1), s("echo")), idempotency_key="k").id == job.id
    for other in (chain(s("inc", 2), s("echo")), chain(s("inc", 1), s("inc"))):
        with pytest.raises(IdempotencyConflict):
            sdk.enqueue(other, idempotency_key="k")
