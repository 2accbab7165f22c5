"""A canvas that is submitted: checked against the models that there are, and a run like any other from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.arguments import shown
from penstock.calltypes import schemas_of
from penstock.dispatch.request import NO_INPUT
from penstock.errors import InvalidInput, TooLarge
from penstock.jsontext import loads
from penstock.options import Options
from penstock.payload import write_input
from penstock.pipelines.announced import Announced
from penstock.pipelines.canvas.modeloptions import Said, options_of
from penstock.pipelines.canvas.named import Named
from penstock.pipelines.canvas.reading import NAME, translate
from penstock.pipelines.canvas.taskoptions import Route
from penstock.pipelines.writing.pipeline import Pipeline

if TYPE_CHECKING:
    from penstock.dispatch.catalog import Target


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a run of a canvas begins with: its graph as JSON text, its inputs, what its signatures say."""

    text: str
    digest: str
    inputs: Mapping[str, Any]
    said: Sequence[Said]
    name: str = NAME

    def encode(self, value: Any, max_bytes: int) -> str:
        """The run's inputs as JSON text; raises ``InvalidInput`` where somebody gives it others, or ``TooLarge``."""
        if value is not NO_INPUT and value is not None:
            raise InvalidInput(
                f"a canvas is given {shown(value)}: its signatures have their inputs",
                fix="leave the input out: client.enqueue(canvas); many canvases are enqueued one by one",
            )
        return write_input(self.name, self.inputs, codec=None, max_bytes=max_bytes)

    def options(self, given: Options, *, now: float) -> dict[str, Any]:
        """Options of the run: those that are given, and what the signatures say; raises ``InvalidInput``."""
        return options_of(self.said, given, now=now)


def as_graph(
    signature: Any, namespace: str, find: Callable[[str], Target], max_bytes: int, route: Route | None = None
) -> Canvas:
    """A signature as a run; raises ``UnknownModel``, ``TooLarge``, and ``InvalidInput`` for what a run
    cannot do.
    """

    def write(model: str, item: Any) -> Any:
        return loads(find(model).encode(item, max_bytes))

    def named(model: str) -> Named | None:
        return named_of(find(model))

    graph, inputs, said = translate(signature, namespace=namespace, write=write, route=route, find=named)
    for model in dict.fromkeys(step.model for step in graph.steps if step.kind == "call"):
        find(model)
    text = graph.to_json().decode()
    if len(text) > max_bytes:  # groups of hundreds whose members are all given the results of hundreds
        raise TooLarge(
            f"the canvas has {len(text):,} bytes as a graph; the limit is {max_bytes:,}",
            fix="join the results in a model of their own before the next group, or group calls of one model",
        )
    return Canvas(text, graph.digest, inputs, said)


def named_of(target: Target) -> Named | None:
    """A pipeline or a function, as what has its arguments by name; ``None`` for a model."""
    pipeline = target.pipeline
    if isinstance(pipeline, Pipeline | Announced):
        graph, defaults = pipeline.graph, pipeline.defaults
        return Named(target.name, graph.inputs, frozenset(defaults), defaults, graph, pipeline.check)
    function = getattr(target.codec.of, "of_function", None) if target.codec is not None else None
    if function is not None:
        takes = schemas_of(function).takes
    elif target.info.get("function"):
        takes = target.info.get("takes") or {}
    else:
        return None
    names = list(takes.get("properties") or {})
    return Named(target.name, names, frozenset(names) - frozenset(takes.get("required") or ()))
