"""A pipeline in this process, without servers: what ``penstock.testing.run_pipeline`` does, given who answers calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.errors import InvalidInput, WaitTimeout
from penstock.payload import constant
from penstock.pipelines import memory
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.writing.expansion import Expansion


def run(
    graph: Graph,
    inputs: Mapping[str, Any],
    call: Callable[[str, Sequence[Any]], Sequence[Any]],
    signals: Mapping[str, Any],
) -> Any:
    """The output. ``call`` answers a model for many items, one result or exception each; ``signals`` are values by
    name: a wait for another one fails, as it does when nobody sends it. Nobody sleeps.
    """

    def expanded(result: Any) -> Any:
        if not isinstance(result, Expansion):
            return result
        return within(result.graph, constant(dict(result.inputs)))

    def within(graph: Graph, inputs: Mapping[str, Any]) -> Any:
        try:
            return run(graph, inputs, call, signals)
        except Exception as error:  # of one of its steps: it is this one's
            return error

    def answer(step: Step, items: Sequence[Any]) -> Sequence[Any]:
        return [expanded(result) for result in tried(step, items)]

    def tried(step: Step, items: Sequence[Any]) -> Sequence[Any]:
        if step.graph is not None:
            return [within(step.graph, item) for item in items]
        if step.kind == "sleep":
            return [None]
        if step.kind == "pick":
            return items
        if step.task is not None:
            raise InvalidInput(
                f"step {step.name!r} is the plain Celery task {step.task.name!r:.80}, which has a worker of its own",
                fix="run it with servers: client.run(graph, …)",
            )
        if step.kind == "wait":
            if step.signal in signals:
                return [signals[step.signal]]
            return [
                WaitTimeout(
                    f"step {step.name!r} waits for the signal {step.signal!r}, which nobody sends",
                    fix=f"run_pipeline(…, signals={{{step.signal!r}: …}}) sends it; a fallback stands in for it",
                )
            ]
        results = call(step.model, items)
        for _ in range(step.retry):
            again = [at for at, result in enumerate(results) if isinstance(result, BaseException)]
            if not again:
                break
            second = call(step.model, [items[at] for at in again])
            by_place = dict(zip(again, second, strict=True))
            results = [by_place.get(at, result) for at, result in enumerate(results)]
        return results

    missing = [name for name in graph.inputs if name not in inputs]
    if missing:
        raise InvalidInput(f"pipeline {graph.name!r} is given no {missing[0]!r}", fix="pass it")
    return memory.run(graph, inputs, answer)
