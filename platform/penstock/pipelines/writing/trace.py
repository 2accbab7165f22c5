"""A Python function as a graph: it is called once, with values that are not known yet, and its calls are written down.

Only calls and operators on values are seen. Everything else in the function runs now, once: a loop over a constant
makes that many steps, and what depends on a value of the run needs ``when`` or ``map``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from penstock.errors import ConfigError, InvalidInput
from penstock.pipelines.graph import Graph, Step, check_sleep, verify
from penstock.pipelines.writing.traced import Traced, expression_of, holds_traced, refusal
from penstock.tracing import StepOptions, tracing

_NONE: StepOptions = {}


class Tracer:
    """The steps of one pipeline, in the order in which they were called."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        #: The models and functions that are called, as far as they are known, by the names that steps call.
        self.called: dict[str, Any] = {}
        self._names: dict[str, int] = {}
        self._taken: set[str] = set()

    def call(self, model: str, item: Any, options: StepOptions = _NONE, *, of: Any = None) -> Traced:
        """A step that is given ``item``; its output."""
        return self._add(self._call(model, options, of, input=expression_of(item)))

    def each(
        self,
        model: str,
        values: Any,
        item: Callable[[Any], Any] | None = None,
        options: StepOptions = _NONE,
        *,
        of: Any = None,
    ) -> Traced:
        """A step that is called for each of ``values``, with what ``item`` makes of it; the list of its outputs."""
        element = Traced({"$item": 0})
        given = expression_of(element if item is None else item(element))
        over = expression_of(values)
        return self._add(self._call(model, options, of, input=given, over=over, maps=True))

    def runs(
        self, graph: Graph, values: Any, item: Callable[[Any], dict[str, Any]], max_parallel: int | None = None
    ) -> Traced:
        """A run of a graph for each of ``values``, with the inputs that ``item`` makes of it; the list of outputs."""
        given = {name: expression_of(value) for name, value in item(Traced({"$item": 0})).items()}
        name = self._name(graph.name)
        over = expression_of(values)
        step = Step(name=name, kind="run", graph=graph, input=given, over=over, maps=True, max_parallel=max_parallel)
        return self._add(step)

    def wait(self, signal: str, timeout: float | None, after: Any) -> Traced:
        """A step whose output is a signal's value."""
        given = expression_of(after)
        return self._add(Step(name=self._name(signal), kind="wait", signal=signal, timeout=timeout, input=given))

    def sleep(self, seconds: Any, after: Any) -> Traced:
        """A step that ends after a time, with nothing."""
        given = [expression_of(seconds), expression_of(after)]  # a list also where both are constants
        step = Step(name=self._name("sleep"), kind="sleep", input=given)
        if not holds_traced(seconds):
            check_sleep(step)
        return self._add(step)

    def pick(self, name: str, values: Sequence[Any], count: int, *, single: bool) -> Traced:
        """A step that ends with the first ``count`` of these values, in their order, or with the one that it takes."""
        first = {"$first": [count, [expression_of(value) for value in values]]}
        given = {"$get": [first, 0]} if single else first
        return self._add(Step(name=self._name(name), kind="pick", input=given))

    def _call(self, model: str, options: StepOptions, of: Any, **fields: Any) -> Step:
        own: dict[str, Any] = dict(options)
        version = own.pop("version", None)
        if version is not None and not (isinstance(version, str) and version):
            raise InvalidInput(f"version={version!r:.80} is no version of model {model!r}", fix='write version="2"')
        asked = model if version is None else f"{model}@{version}"
        if of is not None and version in (None, of.version):  # of another version nothing is known here
            self.called[asked] = of
        return Step(name=self._name(model), model=asked, **own, **fields)

    def _add(self, step: Step) -> Traced:
        self.steps.append(step)
        return Traced({"$out": step.name})

    def _name(self, target: str) -> str:
        """``embed``, then ``embed-2``: names stay what they are when a step is added behind them."""
        base = target.partition("@")[0]
        if not base[:1].isalpha():  # a model's name may begin with a digit
            base = f"_{base}"
        while True:
            count = self._names[base] = self._names.get(base, 0) + 1
            name = base if count == 1 else f"{base}-{count}"
            if name not in self._taken:  # by a model that is called so
                self._taken.add(name)
                return name


def trace(function: Callable[..., Any], *, name: str, tracer: Tracer | None = None) -> Graph:
    """The graph of a pipeline's function; raises ``ConfigError`` where there is none."""
    inputs = inputs_of(function)
    tracer = tracer or Tracer()
    given = {each: Traced({"$in": each}) for each in inputs}
    with tracing(tracer):
        try:
            result = function(**given)
        except TypeError as error:
            if (clearer := refusal(error)) is None:
                raise
            raise clearer from error
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
