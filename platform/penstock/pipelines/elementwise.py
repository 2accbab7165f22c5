"""Maps of maps that follow element by element. PURE.

In ``b.map(a.map(xs))`` the list of ``b`` is what ``a`` gives, in its order: so ``b[i]`` needs ``a[i]``, and none of the
others. Such a map begins with the one that it follows, not when that is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from penstock.pipelines.expression import named, word_of
from penstock.pipelines.graph import Graph, in_order


def followed(graph: Graph) -> dict[str, str]:
    """The maps that follow another one, each with that one.

    Not one that is given the whole list besides, nor one of a part of it, of a list in which it is, or of a choice; nor
    one of which only so many elements may be in flight: what is ready waits in the list.
    """
    maps = {step.name for step in graph.steps if step.maps}
    found: dict[str, str] = {}
    for step in graph.steps:
        follows = step.maps and step.max_parallel is None and word_of(step.over) == "$out"
        source = step.over.get("$out") if follows else None
        if source in maps and source not in named(step.input, "$out"):
            found[step.name] = source
    return found


class Elementwise:
    """Of a graph without choices, which follows which, and when it can begin."""

    def __init__(self, graph: Graph, *, straight: bool, order: Iterable[str] | None = None) -> None:
        order = in_order(graph) if order is None else order
        #: What each follows; nothing where it depends on values what is needed: there a map waits for whole lists.
        self.source: Mapping[str, str] = followed(graph) if straight else {}
        #: What follows each.
        self.followers: dict[str, list[str]] = {}
        for name, source in self.source.items():
            self.followers.setdefault(source, []).append(name)
        self._order = [name for name in order if name in self.source]

    def behind(self, names: Iterable[str]) -> list[str]:
        """All that follow these, and what follows them."""
        found: dict[str, None] = {}
        waiting = [each for name in names for each in self.followers.get(name, ())]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += self.followers.get(name, ())
        return list(found)

    def early(
        self,
        names: Collection[str],
        parents: Mapping[str, Sequence[str]],
        *,
        begun: Collection[str],
        ended: Collection[str],
    ) -> list[str]:
        """Those of these that can begin before what they follow has ended: it has begun, and all else that they need
        has ended. In the order in which they begin."""
        found: dict[str, None] = {}
        for name in self._order:
            if name not in names:
                continue
            source = self.source[name]
            if name in begun or source in ended or not (source in begun or source in found):
                continue
            if all(parent in ended for parent in parents[name] if parent != source):
                found[name] = None
        return list(found)
