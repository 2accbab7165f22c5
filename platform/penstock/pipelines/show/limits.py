"""What is set on a step, and on a run, to hold it back: shown where it is set, and nothing where it is not. PURE."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.pipelines.graph import Graph, Step

#: By the names that ``using`` and ``@penstock.pipeline`` give them; seconds.
Limits = Mapping[str, float]


def limits(step: Step) -> Limits:
    """A step's own; ``max_parallel_within`` is said by the pipeline that it runs, of that one's steps."""
    within = None if step.graph is None else step.graph.max_parallel
    found = {
        "max_parallel": step.max_parallel,
        "max_parallel_within": within,
        "retry": step.retry or None,
        "timeout": step.timeout,
    }
    return {name: value for name, value in found.items() if value is not None}


def words(found: Limits) -> str:
    """``max_parallel=2, timeout=1.5``; empty for none."""
    return ", ".join(f"{name}={value:.15g}" for name, value in found.items())


def of_run(max_parallel: int | None, budget_s: float | None) -> str:
    """``at most 4 steps at a time, 2.5 device seconds``; empty for none."""
    parts = []
    if max_parallel is not None:
        parts.append(f"at most {max_parallel:,} step{'s' * (max_parallel != 1)} at a time")
    if budget_s is not None:
        parts.append(f"{budget_s:,.15g} device second{'s' * (budget_s != 1)}")
    return ", ".join(parts)


def of_graph(graph: Graph) -> str:
    """The same of a graph's runs, unless their submission says others."""
    return of_run(graph.max_parallel, graph.budget)
