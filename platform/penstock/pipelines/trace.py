"""A Python function as a graph: it is called once, with values that are not known yet, and its calls are written down.

Only calls and operators on values are seen. Everything else in the function runs now, once: a loop over a constant
makes that many steps, and what depends on a value of the run needs ``when`` or ``map``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from penstock.errors import ConfigError
from penstock.pipelines.graph import Graph, Step, verify
from penstock.pipelines.traced import Traced, expression_of
from penstock.tracing import tracing


class Tracer:
    """The steps of one pipeline, in the order in which they were called."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._names: dict[str, int] = {}

    def call(self, item: Any, *, model: str | None = None, function: str | None = None) -> Traced:
        """A step that is given ``item``; its output."""
        step = Step(name=self._name(model or function or ""), input=expression_of(item), model=model, function=function)
        self.steps.append(step)
        return Traced({"$out": step.name})

    def each(self, values: Any, *, model: str | None = None, function: str | None = None) -> Traced:
        """A step that is called for each of ``values``; the list of its outputs."""
        step = Step(
            name=self._name(model or function or ""),
            input={"$item": 0},
            model=model,
            function=function,
            over=expression_of(values),
            maps=True,
        )
        self.steps.append(step)
        return Traced({"$out": step.name})

    def _name(self, target: str) -> str:
        """``embed``, then ``embed-2``: names stay what they are when a step is added behind them."""
        base = target.rpartition(":")[2].rpartition(".")[2].partition("@")[0]
        count = self._names[base] = self._names.get(base, 0) + 1
        return base if count == 1 else f"{base}-{count}"


def trace(function: Callable[..., Any], *, name: str) -> Graph:
    """The graph of a pipeline's function; raises ``ConfigError`` where there is none."""
    inputs = inputs_of(function)
    tracer = Tracer()
    given = {each: Traced({"$in": each}) for each in inputs}
    with tracing(tracer):
        result = function(**given)
    if inspect.isawaitable(result) or inspect.isgenerator(result):
        raise ConfigError(
            f"pipeline {name!r} is an asynchronous function or a generator, which runs later than it is traced",
            fix="write it as a plain function: its steps run at the same time wherever they can",
        )
    graph = Graph(name=name, inputs=inputs, steps=tracer.steps, output=expression_of(result))
    verify(graph)
    return graph


def inputs_of(function: Callable[..., Any]) -> list[str]:
    """The names of its parameters; raises ``ConfigError`` for ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(function).parameters.values()
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY):
            raise ConfigError(f"a pipeline's input {str(each)!r} has no name of its own", fix="name each of its inputs")
    return [each.name for each in parameters]


def when(condition: Any, one: Any, other: Any = None) -> Any:
    """``one`` where the condition holds, else ``other``; steps that only the other one needs never start.

    The condition is true or false: ``judge(draft) > 0.5``, with ``&``, ``|`` and ``~`` for *and*, *or* and *not*.
    """
    if not isinstance(condition, Traced):
        return one if condition else other
    return Traced({"$if": [expression_of(condition), expression_of(one), expression_of(other)]})
