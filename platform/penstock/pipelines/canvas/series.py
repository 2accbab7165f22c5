"""A graph as chains, groups and chords, where it is made of nothing else: where ways part, they meet again. PURE.

The nearest flow that all the ways into a list have in common is what stands before their group; what follows a list is
the body of a chord.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from penstock.errors import ConfigError
from penstock.pipelines.canvas.flows import RUN, Call, Flow, flows_of
from penstock.pipelines.graph import Graph, unnamed


class Task(NamedTuple):
    """A signature of a model; an immutable one is given nothing."""

    model: str
    args: tuple[Any, ...]
    immutable: bool


class Chain(NamedTuple):
    """One after the other; what parts in it is last."""

    parts: list[Canvas]


class Group(NamedTuple):
    """Side by side."""

    members: list[Canvas]


class Chord(NamedTuple):
    """Side by side, and what is given their list."""

    header: list[Canvas]
    body: Canvas


Canvas = Task | Chain | Group | Chord


def canvas_of(graph: Graph, inputs: Mapping[str, Any]) -> Canvas:
    """The canvas of a graph with these inputs; raises ``ConfigError`` that names what has none."""
    if idle := unnamed(graph):
        raise ConfigError(f"step {idle[0]!r} is used by nobody: the canvas of the others would leave it out", fix=RUN)
    output, calls = flows_of(graph, inputs)
    try:
        return _whole(output, calls)
    except RecursionError:
        raise ConfigError("the graph is too deep for a canvas", fix=RUN) from None


def _whole(output: Flow, calls: Mapping[str, Call]) -> Canvas:
    built = _Builder(output, calls)
    parts = built.upto(output, None)
    if len(parts) == 1 and isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], tuple):
        raise ConfigError("the output is a list of one list, which Celery gives as the inner one", fix=RUN)
    return built.joined(parts)


class _Builder:
    def __init__(self, output: Flow, calls: Mapping[str, Call]) -> None:
        self._output = output
        self._calls = calls
        self._roots: dict[Flow, Flow | None] = {}
        self._used: set[str] = set()

    def upto(self, flow: Flow, start: Flow | None, before: Flow | None = None) -> list[Canvas]:
        """What makes ``flow`` of ``start``, one after the other; ``before`` is what stands before a list."""
        parts: list[Canvas] = []
        here: Flow | None = flow
        while here is not None and here != start:
            if isinstance(here, str):
                call = self._call(here)
                parts.append(Task(call.model, call.args, call.flow is None))
                here = call.flow
            else:
                root, before = before or self._root(here), None
                parts.append(Group([self._member(each, here, start if root is None else root) for each in here]))
                here = root
        return parts[::-1]

    def joined(self, parts: list[Canvas]) -> Canvas:
        """Parts as one canvas: what follows a group is the body of a chord."""
        for place, part in enumerate(parts[:-1]):
            if isinstance(part, Group):
                rest = self.joined(parts[place + 1 :])
                return _chain([*parts[:place], Chord(part.members, rest)])
        last = parts[-1]
        if isinstance(last, Group) and len(last.members) == 1 and len(parts) > 1:
            raise ConfigError("a list of one result ends a chain, where Celery gives the result alone", fix=RUN)
        return _chain(parts)

    def _member(self, flow: Flow, among: Flow, start: Flow | None) -> Canvas:
        parts = self.upto(flow, start, self._prefix(flow, start))
        if not parts:
            raise ConfigError(f"{_told(flow)} stands in a list beside what follows it", fix=RUN)
        if len(parts) == 1 and isinstance(parts[0], Group):
            raise ConfigError(f"the list {_told(flow)} stands in the list {_told(among)}: a group has none", fix=RUN)
        return self.joined(parts)

    def _prefix(self, flow: Flow, start: Flow | None) -> Flow | None:
        """What may stand before a list whose members share nothing: in a list it cannot stand alone."""
        if isinstance(flow, str) or self._root(flow) is not None:
            return None
        # A list in it needs what is before it for itself.
        trails = [self._trail(each)[1 if isinstance(each, str) else 2 :] for each in flow]
        behind = [trail[: trail.index(start)] for trail in trails if start is not None and start in trail]
        return next((trail[0] for trail in behind or trails if trail), None)

    def _call(self, name: str) -> Call:
        if name in self._used:
            raise self._parted(name)
        self._used.add(name)
        return self._calls[name]

    def _ways(self, name: str) -> list[str]:
        ways = [f"{name} -> {other}" for other, call in self._calls.items() if name in _names(call.flow)]
        return [*ways, f"{name} -> the output"] if name in _names(self._output) else ways

    def _parted(self, name: str) -> ConfigError:
        ways = ", ".join(self._ways(name)[:5])
        return ConfigError(f"the ways {ways} do not meet in one list: a canvas would call {name!r} twice", fix=RUN)

    def _root(self, flow: tuple[Flow, ...]) -> Flow | None:
        """What all of its members come from that come from something together; none where each has its own."""
        if flow not in self._roots:
            self._roots[flow] = self._found(flow)
        return self._roots[flow]

    def _found(self, flow: tuple[Flow, ...]) -> Flow | None:
        below = [self._below(each) for each in flow]
        counts: dict[str, int] = {}
        for names in below:
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        shared = {name for name, n in counts.items() if n > 1}
        together = [self._trail(each) for each, names in zip(flow, below, strict=True) if names & shared]
        if not together:
            return None
        for each in together[0][1:]:
            if all(each in other[1:] for other in together[1:]):
                return each
        raise self._parted(max(sorted(shared), key=lambda name: len(self._ways(name))))

    def _trail(self, flow: Flow) -> list[Flow]:
        """The flow, and the one before it, and so on; before a list whose members share nothing, those before each."""
        trail = [flow]
        while True:
            here = trail[-1]
            before = self._calls[here].flow if isinstance(here, str) else self._root(here)
            if before is None:
                members = () if isinstance(here, str) else here
                return trail + [one for each in members for one in self._trail(each)[1:]]
            trail.append(before)

    def _below(self, flow: Flow) -> set[str]:
        """The names of all steps that it comes from."""
        found: set[str] = set()
        waiting = list(_names(flow))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += _names(self._calls[name].flow)
        return found


def _chain(parts: list[Canvas]) -> Canvas:
    return parts[0] if len(parts) == 1 else Chain(parts)


def _names(flow: Flow | None) -> list[str]:
    if flow is None:
        return []
    return [flow] if isinstance(flow, str) else [name for each in flow for name in _names(each)]


def _told(flow: Flow) -> str:
    return repr(flow) if isinstance(flow, str) else f"[{', '.join(map(_told, flow))}]"
