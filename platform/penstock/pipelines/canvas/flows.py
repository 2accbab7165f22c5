"""What the steps of a graph are passed on, where nothing else happens to values: canvases do no more. PURE.

A flow is a step's output, or a list of flows: what Celery passes from one task to the next. A step is given a flow, and
constants behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from penstock.errors import ConfigError, NoValue
from penstock.pipelines.expression import Expression, evaluate, kind_of, named, truth, word_of
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.show.infix import infix

#: The name of a step, or flows side by side.
Flow = str | tuple["Flow", ...]

RUN = "run the pipeline as what it is: client.run(pipeline, {…})"


class Call(NamedTuple):
    """One call of a model: of ``flow`` and ``args`` behind it, or of the one item in ``args`` where nothing flows."""

    model: str
    flow: Flow | None
    args: tuple[Any, ...]


class _Constant(NamedTuple):
    value: Any


_Reduced = _Constant | Flow


def flows_of(graph: Graph, inputs: Mapping[str, Any]) -> tuple[Flow, dict[str, Call]]:
    """The flow of the output, and the calls that it needs by their names: elements of a map are calls of their own.

    Raises ``ConfigError`` for whatever else is done with a value, by the step and the expression.
    """
    read = _Reader(graph, inputs)
    output = read.flow(graph.output, "the output")
    while read.waiting:
        read.add(*read.waiting.pop())
    return output, read.calls


class _Reader:
    def __init__(self, graph: Graph, inputs: Mapping[str, Any]) -> None:
        self.calls: dict[str, Call] = {}
        #: Calls that something has named: name, step, what the map is at.
        self.waiting: list[tuple[str, Step, Sequence[Any]]] = []
        self._steps = {step.name: step for step in graph.steps}
        self._maps: dict[str, tuple[Flow, ...]] = {}
        self._inputs = inputs

    def flow(self, expression: Expression, where: str) -> Flow:
        found = self._reduced(expression, where)
        if isinstance(found, _Constant):
            raise ConfigError(f"{where} is a constant, which no canvas passes on", fix=RUN)
        return found

    def _reduced(self, expression: Expression, where: str, items: Sequence[Any] = ()) -> _Reduced:
        if not any(True for _ in named(expression, "$out")):
            return _Constant(evaluate(expression, inputs=self._inputs, outputs={}, items=items))
        word = word_of(expression)
        if word == "$out":
            return self._output(expression[word])
        if word == "$if" and not any(True for _ in named(expression[word][0], "$out")):
            condition, one, other = expression[word]
            holds = truth(evaluate(condition, inputs=self._inputs, outputs={}, items=items))
            return self._reduced(one if holds else other, where, items)
        if word is None and isinstance(expression, list):
            found = [self._reduced(each, where, items) for each in expression]
            return self._together(found, where)
        does = {
            "$if": "chooses by a result",
            "$else": "has what stands in for a failure",
            "$get": "takes an element of a result",
            "$op": "computes with a result",
        }
        raise ConfigError(
            f"{where} {does.get(word or '', 'makes an object of results')}, which no canvas does: {infix(expression)}",
            fix=RUN,
        )

    def _together(self, found: Sequence[_Reduced], where: str) -> Flow:
        flows = [each for each in found if not isinstance(each, _Constant)]
        if len(flows) != len(found):
            raise ConfigError(f"{where} has a constant in a list of results, where a canvas has none", fix=RUN)
        return tuple(flows)

    def _output(self, name: str) -> Flow:
        step = self._steps[name]
        if not step.maps:
            self.waiting.append((name, step, ()))
            return name
        if name not in self._maps:
            over = self._reduced(step.over, f"step {name!r}")
            if isinstance(over, _Constant) and not isinstance(over.value, list):
                raise NoValue(f"step {name!r} maps {kind_of(over.value)}, which is no list")
            if not isinstance(over, _Constant):
                raise ConfigError(f"step {name!r} maps a result, of which a canvas does not know the length", fix=RUN)
            elements = {f"{name}[{place}]": item for place, item in enumerate(over.value)}
            self.waiting += [(each, step, (item,)) for each, item in elements.items()]
            self._maps[name] = tuple(elements)
        return self._maps[name]

    def add(self, name: str, step: Step, items: Sequence[Any]) -> None:
        """The call of this name, once."""
        if name in self.calls:
            return
        if step.kind != "call":
            raise ConfigError(f"step {name!r} is a {step.kind}, which no canvas has", fix=RUN)
        if step.retry or step.timeout is not None:
            raise ConfigError(f"step {name!r} has a timeout or retries of its own, which no canvas has", fix=RUN)
        self.calls[name] = Call(step.model, *self._given(step.input, f"step {name!r}", items))

    def _given(self, expression: Expression, where: str, items: Sequence[Any]) -> tuple[Flow | None, tuple[Any, ...]]:
        if word_of(expression) is None and isinstance(expression, list) and expression:
            parts = [self._reduced(each, where, items) for each in expression]
            first, *rest = parts
            own = [each.value for each in rest if isinstance(each, _Constant)]
            if not isinstance(first, _Constant) and rest and len(own) == len(rest):
                return first, tuple(own)
        found = self._reduced(expression, where, items)
        return (None, (found.value,)) if isinstance(found, _Constant) else (found, ())
