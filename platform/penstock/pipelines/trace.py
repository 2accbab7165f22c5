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
from penstock.tracing import StepOptions, current, tracing

_NONE: StepOptions = {}


class Tracer:
    """The steps of one pipeline, in the order in which they were called."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._names: dict[str, int] = {}

    def call(self, model: str, item: Any, options: StepOptions = _NONE) -> Traced:
        """A step that is given ``item``; its output."""
        return self._add(Step(name=self._name(model), model=model, input=expression_of(item), **options))

    def each(
        self, model: str, values: Any, item: Callable[[Any], Any] | None = None, options: StepOptions = _NONE
    ) -> Traced:
        """A step that is called for each of ``values``, with what ``item`` makes of it; the list of its outputs."""
        element = Traced({"$item": 0})
        given = expression_of(element if item is None else item(element))
        over = expression_of(values)
        return self._add(Step(name=self._name(model), model=model, input=given, over=over, maps=True, **options))

    def wait(self, signal: str, timeout: float | None, after: Any) -> Traced:
        """A step whose output is a signal's value."""
        given = expression_of(after)
        return self._add(Step(name=self._name(signal), kind="wait", signal=signal, timeout=timeout, input=given))

    def sleep(self, seconds: Any, after: Any) -> Traced:
        """A step that ends after a time, with nothing."""
        return self._add(Step(name=self._name("sleep"), kind="sleep", input=expression_of([seconds, after])))

    def _add(self, step: Step) -> Traced:
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


def fallback(first: Any, *others: Any) -> Any:
    """The first of these values whose steps do not fail: ``fallback(best(x), quick(x))``.

    What stands in starts only when what it stands in for has failed, and for good: after its own ``retry``.
    """
    if not others:
        return first
    return Traced({"$else": [expression_of(first), expression_of(fallback(*others))]})


def wait_for(signal: str, *, timeout: float | None = None, after: Any = None) -> Any:
    """The value of a signal: what ``client.signal(run, signal, value)`` says, a person's decision for example.

    The run waits for it without a worker, from when ``after`` is known (the draft that is to be approved), or from its
    beginning; a signal that came before is kept. Fails after ``timeout`` seconds, which ``fallback`` may stand in for.
    """
    return _tracer("wait_for").wait(signal, timeout, after)


def sleep(seconds: Any, *, after: Any = None) -> Any:
    """Nothing, ``seconds`` after ``after`` is known, or after the run's beginning. No worker waits with it."""
    return _tracer("sleep").sleep(seconds, after)


def _tracer(what: str) -> Tracer:
    tracer = current()
    if not isinstance(tracer, Tracer):
        raise TypeError(f"penstock.{what} is called in the function of a pipeline")
    return tracer
