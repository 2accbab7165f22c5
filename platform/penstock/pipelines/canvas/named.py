"""Calls of what has its arguments by name, as steps of a canvas' graph: pipelines and functions. PURE.

What is passed on comes first, by position, and the signature's own arguments behind it, as Python binds them. A
pipeline becomes a run within the run, of the graph that its name means when the canvas is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from penstock.errors import InvalidInput
from penstock.payload import constant
from penstock.pipelines.expression import Expression
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.inputs import by_position

#: Positional and named arguments of one call.
Arguments = tuple[Sequence[Any], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Named:
    """What is called."""

    name: str
    names: Sequence[str]
    #: Arguments that may be left out; of a pipeline with their values, which are the run's inputs then.
    optional: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Of a pipeline.
    graph: Graph | None = None
    #: Raises ``InvalidInput`` for what can not be this argument.
    check: Callable[[str, Any], None] = lambda name, value: None

    @property
    def what(self) -> str:
        """For errors."""
        return f"{'step' if self.graph is None else 'pipeline'} {self.name!r}"

    def bound(self, passed: int, call: Arguments) -> dict[str, Any]:
        """The arguments of a call that has so many ``passed`` on, without these; raises ``InvalidInput``."""
        args, kwargs = call
        given = by_position(self.what, self.names, [*([None] * passed), *args], kwargs)
        for name in self.names:
            if name not in given and name not in self.optional:
                raise InvalidInput(
                    f"{self.what} is given no {name!r}", fix=f"its arguments, in this order: {', '.join(self.names)}"
                )
        own = {**self.defaults, **given}
        return {name: own[name] for name in self.names[passed:] if name in own}


def step_of(
    name: str,
    model: str,
    named: Named,
    calls: Sequence[Arguments],
    *,
    passed: Sequence[Expression],
    write: Callable[[str, Any], Any],
    maps: bool,
) -> tuple[Step, Any]:
    """One step that makes these calls, and what the run is given by its name; ``None`` for nothing.

    With something passed on, all of them have arguments of one form.
    """
    own = [named.bound(len(passed), call) for call in calls]
    if passed:
        for each in own:
            for key, value in each.items():
                named.check(key, value)
        own = [constant(each) for each in own]
    else:
        own = [write(model, each) for each in own]
    source: Expression = {"$item": 0} if maps else {"$in": name}
    item: Expression = dict(zip(named.names, passed, strict=False))
    if not passed and named.graph is None:
        item = source
    elif own:
        item |= {key: {"$get": [source, key]} for key in own[0]}
    elif named.graph is not None:  # a map of nothing
        item = {key: {"$get": [source, key]} for key in named.names}
    over: Expression = {"$in": name} if maps else None
    made: Any = {"model": model} if named.graph is None else {"kind": "run", "graph": _inner(named.graph)}
    step = Step(name=name, input=item, over=over, maps=maps, **made)
    if maps:
        return step, own
    return step, own[0] if own[0] or item == source else None


def behind(step: Step, after: Sequence[Expression]) -> Step:
    """The step, once those are there, which it is not given; raises ``InvalidInput`` where it has no input."""
    if step.maps:
        return replace(step, over=later(step.over, after))
    if step.graph is None:
        return replace(step, input=later(step.input, after))
    if not step.input:
        raise InvalidInput(
            f"pipeline {step.graph.name!r} has no input, so that nothing tells it to wait for what is before it",
            fix="give it an input, or call it first",
        )
    first = next(iter(step.input))
    return replace(step, input=step.input | {first: later(step.input[first], after)})


def later(value: Expression, after: Sequence[Expression]) -> Expression:
    """The value, once those are there."""
    return {"$get": [[value, *after], 0]}


def _inner(graph: Graph) -> Graph:
    """What is spent is that of the run around it."""
    return replace(graph, budget=None)
