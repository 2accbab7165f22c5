"""A graph run in this process, without servers: what tests compare everything else with. PURE but for the calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.errors import WrongResultCount
from penstock.pipelines.expression import evaluate
from penstock.pipelines.frontier import frontier
from penstock.pipelines.graph import Graph, Step, input_of, items_of


def run(graph: Graph, inputs: Mapping[str, Any], call: Callable[[Step, Sequence[Any]], Sequence[Any]]) -> Any:
    """The output, steps in the order of the graph. ``call`` answers a step for all of its items, one result each; an
    exception among them is that item's failure.

    Raises ``NoValue`` where an expression has none, the error of a step that nothing stands in for, and whatever
    ``call`` raises.
    """
    outputs: dict[str, Any] = {}
    failed: dict[str, BaseException] = {}
    while not (now := frontier(graph, inputs=inputs, outputs=outputs, failed=failed)).done:
        if now.failed is not None:
            raise failed[now.failed]
        for name in now.ready:
            step = graph.step(name)
            items = items_of(step, inputs=inputs, outputs=outputs)
            given = [input_of(step, inputs=inputs, outputs=outputs, items=(item,)) for item in items]
            results = list(call(step, given)) if given else []
            if len(results) != len(given):
                raise WrongResultCount(f"step {name!r} gave {len(results)} results for {len(given)} items")
            faults = [result for result in results if isinstance(result, BaseException)]
            if faults:
                failed[name] = faults[0]
            else:
                outputs[name] = results if step.maps else results[0]
    return evaluate(graph.output, inputs=inputs, outputs=outputs)
