"""The steps of a graph by how many others lie before them at most. PURE.

An order for reading: nothing waits for a level, a step starts when its own last parent has ended.
"""

from __future__ import annotations

from penstock.pipelines.graph import Graph, Step, parents


def levels(graph: Graph) -> list[list[Step]]:
    """Each step once, behind all its parents; within a level in the order of the graph. ``graph`` has no circles."""
    above = {step.name: parents(step) for step in graph.steps}
    below: dict[str, list[str]] = {name: [] for name in above}
    for name, names in above.items():
        for parent in names:
            below[parent].append(name)
    left = {name: len(names) for name, names in above.items()}
    place = {step.name: place for place, step in enumerate(graph.steps)}
    found: list[list[Step]] = []
    now = [name for name, count in left.items() if not count]
    while now:
        found.append([graph.steps[place[name]] for name in sorted(now, key=place.__getitem__)])
        following: list[str] = []
        for name in now:
            for child in below[name]:
                left[child] -= 1
                if not left[child]:
                    following.append(child)
        now = following
    return found
