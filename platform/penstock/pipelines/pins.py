"""Which version of each model a run goes on with. PURE.

A run is put on one version of each model when it begins: of several that are served, each as likely as it would be for
one job, by how many workers serve it. Runs that begin on a canary stay on it, and the others do not meet it. Of models
that declare no version, and of what asks for one itself, nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from itertools import accumulate

import msgspec

from penstock.lane import full_name, split_name
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.nested import all_steps

#: Of a model that declares no version.
UNDECLARED = ""

#: How many workers serve which versions, by model.
Served = Mapping[str, Mapping[str, int]]
#: A version by model.
Versions = Mapping[str, str]


def served(workers: Iterable[Mapping[str, str]]) -> Served:
    """Of what each worker serves: versions by model."""
    found: dict[str, Counter[str]] = {}
    for each in workers:
        for model, version in each.items():
            found.setdefault(model, Counter())[version] += 1
    return found


def chosen(by: Served, run: str) -> Versions:
    """The versions that a run with this id begins with: of all models by one throw, since they are often deployed
    together. A model of which it meets one that declares none is left out."""
    throw = int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big") / 2**64
    found = {}
    for model, counts in by.items():
        versions = sorted(counts)
        below = accumulate(counts[version] for version in versions)
        at = throw * sum(counts.values())
        version = next(version for version, limit in zip(versions, below, strict=True) if at < limit)
        if version != UNDECLARED:
            found[model] = version
    return found


def open_models(graph: Graph) -> tuple[str, ...]:
    """The models that steps call in whatever version."""
    calls = (step.model for step in all_steps(graph) if step.kind == "call")
    return tuple(sorted({model for model in calls if split_name(model)[1] is None}))


def pins_of(graph: Graph) -> Versions:
    """What the graph is pinned to already."""
    split = (split_name(step.model) for step in all_steps(graph) if step.pinned)
    return {name: version or "" for name, version in split}


def pinned(graph: Graph, versions: Versions) -> Graph:
    """The graph whose open steps call these versions."""

    def pin(step: Step) -> Step:
        version = versions.get(step.model) if step.kind == "call" else None
        return step if version is None else _with(step, step.model, version)

    return _each(graph, pin)


def moved(graph: Graph, by: Served, versions: Versions) -> Graph:
    """The graph whose pins that nobody serves any more are moved to ``versions``, as far as these have the model."""

    def move(step: Step) -> Step:
        name, version = split_name(step.model)
        if not step.pinned or version in by.get(name, ()) or name not in versions:
            return step
        return _with(step, name, versions[name])

    return _each(graph, move)


def _with(step: Step, model: str, version: str) -> Step:
    return msgspec.structs.replace(step, model=full_name(model, version), pinned=True)


def _each(graph: Graph, change: Callable[[Step], Step]) -> Graph:
    """The graph with its steps changed, and those of the graphs in it."""

    def inside(step: Step) -> Step:
        new = None if step.graph is None else _each(step.graph, change)
        return step if new is step.graph else msgspec.structs.replace(step, graph=new)

    steps = [change(step) if step.graph is None else inside(step) for step in graph.steps]
    same = all(one is other for one, other in zip(steps, graph.steps, strict=True))
    return graph if same else msgspec.structs.replace(graph, steps=steps)
