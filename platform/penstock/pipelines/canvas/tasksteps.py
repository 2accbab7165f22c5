"""Calls of plain Celery tasks as steps of a canvas' graph. PURE.

Their constants are inputs of the run by the step's name, as those of models are: ``{"args": […], "kwargs": {…}}``, and
lists of these for maps. What a call stands behind and is not given (``.si``) is in ``after``: it is waited for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from penstock.payload import constant
from penstock.pipelines.canvas.members import Member
from penstock.pipelines.canvas.taskoptions import Route, carried, task_of
from penstock.pipelines.expression import Expression
from penstock.pipelines.graph import Step

#: Longest part of a step's name that is the task's, characters.
_MAX = 100


class TaskCalls:
    """Makes them; each comes with what the run is given by the step's name, ``None`` for nothing."""

    def __init__(self, namespace: str, route: Route) -> None:
        self._namespace = namespace
        self._route = route
        #: Whether there was one.
        self.any = False

    def called(self, one: Member) -> str:
        """The task's name, as steps may be named."""
        return re.sub(r"[^A-Za-z0-9_.-]", "_", one.signature.task)[:_MAX].lstrip(".-") or "task"

    def alike(self, members: Sequence[Member]) -> bool:
        """Whether calls of one task are sent alike."""
        first = self._sent(members[0])
        return all(self._sent(each) == first for each in members[1:])

    def call(self, name: str, one: Member, given: Sequence[Expression]) -> tuple[Step, Any]:
        """One call, after ``given``."""
        signature = one.signature
        own = constant({"args": signature.args, "kwargs": signature.kwargs})
        if not given:
            return self._step(name, one, {"$in": name}), own
        if signature.immutable:
            return self._step(name, one, _given([], {"$in": name}, len(own["args"]), after=given)), own
        if not signature.args and not signature.kwargs:
            return self._step(name, one, {"args": [*given], "kwargs": {}}), None
        return self._step(name, one, _given(given, {"$in": name}, len(own["args"]))), own

    def wide(self, name: str, members: Sequence[Member], given: Sequence[Expression]) -> tuple[Step, Any]:
        """Calls beside each other, with arguments of one form."""
        first = members[0].signature
        own = constant([{"args": each.signature.args, "kwargs": each.signature.kwargs} for each in members])
        count = len(first.args)
        if not given:
            item: Expression = {"$item": 0}
        elif first.immutable:
            item = _given([], {"$item": 0}, count, after=given)
        else:
            item = _given(given, {"$item": 0}, count)
        return self._step(name, members[0], item, over={"$in": name}), own

    def mapped(
        self, name: str, one: Member, calls: Sequence[Sequence[Any]], given: Sequence[Expression]
    ) -> tuple[Step, Any]:
        """A call for each of these lists of arguments."""
        own = constant([{"args": list(args), "kwargs": {}} for args in calls])
        item: Expression = {"$item": 0}
        if given:
            item = {"args": {"$get": [{"$item": 0}, "args"]}, "kwargs": {}, "after": [*given]}
        return self._step(name, one, item, over={"$in": name}), own

    def _step(self, name: str, one: Member, item: Expression, over: Expression = None) -> Step:
        self.any = True
        task = task_of(name, one.signature, one.options, self._route, self._namespace)
        timeout = carried(task.name, one.options).get("timeout")
        maps = over is not None
        return Step(name=name, kind="task", task=task, input=item, over=over, maps=maps, timeout=timeout)

    def _sent(self, one: Member) -> Any:
        own = {key: value for key, value in one.options.items() if key not in ("task_id", "reply_to", "link")}
        return own, self._route(one.signature, own)


def _given(first: Sequence[Expression], own: Expression, count: int, after: Sequence[Expression] = ()) -> Expression:
    args = [*first, *({"$get": [{"$get": [own, "args"]}, place]} for place in range(count))]
    found: dict[str, Any] = {"args": args, "kwargs": {"$get": [own, "kwargs"]}}
    return found | {"after": [*after]} if after else found
