"""Which follow-ups of a Celery message need a route of their own: PURE.

A follow-up (the next step of a chain, a chord's body, a callback) is published by the worker that ran what it follows.
A worker of Celery's does that with its own configuration, as ever. A model's worker has none of the producer's routes,
so what a model's worker will publish is given its route when the message is sent. Everything else is left alone.

Signatures are read as the mappings that they are in a message: ``task``, ``args``, ``kwargs``, ``options``,
``subtask_type``. They are never changed: what needs a route is copied, with all that it is part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

#: A signature as it is in a message.
Sig = Mapping[str, Any]


class World(Protocol):
    """What the producer knows. ``app`` is whatever stands for the Celery app of a signature; ``None`` inherits."""

    def app_of(self, sig: Sig, outer: Any) -> Any:
        """The app that would send this signature; ``outer`` is that of what it is part of."""

    def is_model(self, sig: Sig, app: Any) -> bool:
        """Whether a model's worker runs it."""

    def route(self, sig: Sig, app: Any) -> Mapping[str, Any]:
        """The options by which the app would send it, those left out that it has; empty when that is unknown."""


def with_routes(embed: Mapping[str, Any], *, by_model: bool, world: World, app: Any = None) -> dict[str, Any]:
    """The follow-ups of a message that had to be changed: some of ``callbacks``, ``errbacks``, ``chord``, ``chain``.

    ``by_model`` is whether a model's worker runs the message itself.
    """
    walk = _Walk(world)
    return walk.behind(embed, by_model, by_model, app, callbacks="callbacks", errbacks="errbacks")


class _Walk:
    """``by``: a model's worker publishes this. ``seen``: a model is upstream, whose worker may publish the error
    callbacks of this: who fails a chord, or the rest of a chain, calls those of what does not run any more."""

    def __init__(self, world: World) -> None:
        self._world = world

    def each(self, sigs: Any, by: bool, seen: bool, app: Any) -> Any:
        """One signature or several."""
        if isinstance(sigs, Mapping):
            return self.sig(sigs, by, seen, app)
        if not isinstance(sigs, Iterable) or isinstance(sigs, str | bytes):
            return sigs
        return _same(sigs, [self.each(sig, by, seen, app) for sig in sigs])

    def chain(self, steps: Any, by: bool, seen: bool, app: Any) -> Any:
        """The rest of a chain, as a message has it: the next step is the last."""
        if not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
            return steps
        return _same(steps, self._steps(steps[::-1], by, seen, app)[0][::-1])

    def sig(self, sig: Sig, by: bool, seen: bool, outer: Any) -> Sig:
        """One signature, with all that it contains and all that follows it."""
        app = self._world.app_of(sig, outer)
        kind, kwargs = sig.get("subtask_type"), sig.get("kwargs") or {}
        inner: dict[str, Any] = {}
        last_is_model, some = self._ends(sig, app), self._some(sig, app)
        if kind == "chain":
            steps, _ = self._steps(kwargs.get("tasks") or (), by, seen, app)
            inner["tasks"] = _same(kwargs.get("tasks"), steps)
        elif kind == "group":
            inner["tasks"] = self.each(kwargs.get("tasks"), by, seen, app)
        elif kind == "chord":
            header = kwargs.get("header")
            inner["header"] = self.each(header, by, seen, app)
            ends = self._any(self._ends, header, app) if header else by
            inner["body"] = self.each(kwargs.get("body"), ends, seen or self._any(self._some, header, app), app)
        inner = {name: value for name, value in inner.items() if value is not kwargs.get(name)}
        options = self.behind(sig.get("options") or {}, last_is_model, seen or some, app)
        if by and kind not in ("chain", "group", "chord"):
            options |= self._world.route(sig, app)
        if not inner and not options:
            return sig
        new = {**sig, "options": {**(sig.get("options") or {}), **options}}
        return {**new, "kwargs": {**kwargs, **inner}} if inner else new

    def behind(
        self,
        of: Mapping[str, Any],
        by: bool,
        seen: bool,
        app: Any,
        *,
        callbacks: str = "link",
        errbacks: str = "link_error",
    ) -> dict[str, Any]:
        """What follows a signature by its own options, or a message; what of it had to be changed."""
        new = {
            callbacks: self.each(of.get(callbacks), by, seen, app),
            "chord": self.each(of.get("chord"), by, seen, app),
            "chain": self.chain(of.get("chain"), by, seen, app),
            errbacks: self.each(of.get(errbacks), seen, seen, app),
        }
        return {name: value for name, value in new.items() if value is not of.get(name)}

    def _steps(self, steps: Iterable[Any], by: bool, seen: bool, app: Any) -> tuple[list[Any], bool]:
        """Signatures that follow each other, in their order; whether a model publishes what comes after them."""
        new = []
        for step in steps:
            new.append(self.each(step, by, seen, app))
            if isinstance(step, Mapping):
                own = self._world.app_of(step, app)
                by, seen = self._ends(step, own), seen or self._some(step, own)
        return new, by

    def _ends(self, sig: Any, app: Any) -> bool:
        """Whether what comes after this signature may be published by a model's worker."""
        if not isinstance(sig, Mapping):
            return False
        kind, kwargs = sig.get("subtask_type"), sig.get("kwargs") or {}
        app = self._world.app_of(sig, app)
        if kind == "chain":
            tasks = list(kwargs.get("tasks") or ())
            return bool(tasks) and self._ends(tasks[-1], app)
        if kind == "group":
            return self._any(self._ends, kwargs.get("tasks"), app)
        if kind == "chord":
            return self._any(self._ends, kwargs.get("body") or kwargs.get("header"), app)
        return self._world.is_model(sig, app)

    def _some(self, sig: Any, app: Any) -> bool:
        """Whether a model is anywhere in this signature."""
        if not isinstance(sig, Mapping):
            return False
        kwargs = sig.get("kwargs") or {}
        app = self._world.app_of(sig, app)
        if sig.get("subtask_type") in ("chain", "group"):
            return self._any(self._some, kwargs.get("tasks"), app)
        if sig.get("subtask_type") == "chord":
            return self._any(self._some, kwargs.get("header"), app) or self._any(self._some, kwargs.get("body"), app)
        return self._world.is_model(sig, app)

    @staticmethod
    def _any(test: Any, sigs: Any, app: Any) -> bool:
        if isinstance(sigs, Mapping):
            return bool(test(sigs, app))
        return isinstance(sigs, Iterable) and not isinstance(sigs, str | bytes) and any(test(s, app) for s in sigs)


def _same(old: Any, new: list[Any]) -> Any:
    """``old`` itself where nothing in it has changed."""
    unchanged = old is not None and len(new) == len(old) and all(a is b for a, b in zip(old, new, strict=True))
    return old if unchanged or (old is None and not new) else new
