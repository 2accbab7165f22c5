"""A step that answers with more steps: what is to be done is known only when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import InvalidInput
from penstock.pipelines.graph import Graph
from penstock.pipelines.writing.trace import trace

#: How deep steps may answer with steps that answer with steps.
MAX_DEPTH = 100


@dataclass(frozen=True)
class Expansion:
    """A graph in the place of a result: the step's output is the graph's, when that has ended."""

    graph: Graph
    inputs: Mapping[str, Any]


def expand(function: Callable[..., Any], **inputs: Any) -> Expansion:
    """What a function with ``@penstock.step`` returns to go on with more steps, however many it finds to be needed.

    ``function`` is traced as that of a pipeline, with ``inputs`` by name; what it closes over is part of the graph. The
    steps are run durably, as any others, and may expand themselves, up to ``MAX_DEPTH`` deep.
    """
    graph = trace(function, name=_name(function))
    for name in inputs:
        if name not in graph.inputs:
            raise InvalidInput(f"the function has no input {name!r}", fix=f"it has {', '.join(graph.inputs) or 'none'}")
    for name in graph.inputs:
        if name not in inputs:
            raise InvalidInput(f"the function is given no {name!r}", fix=f"expand(function, {name}=…)")
    return Expansion(graph, inputs)


def _name(function: Callable[..., Any]) -> str:
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else "expansion"
