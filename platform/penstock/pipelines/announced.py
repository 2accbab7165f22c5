"""A pipeline as workers announce it: enough to submit runs by its name where its module is not, and torch with it."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock import usercode
from penstock.errors import ConfigError, InvalidInput, NotSerializable
from penstock.itemschema import misfit, tells_all
from penstock.payload import constant, write_input
from penstock.pipelines.graph import Graph, read
from penstock.pipelines.inputs import by_name, missing_input
from penstock.pipelines.writing.pipeline import Pipeline

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)


class Announced:
    """To a submission it is what ``Pipeline`` is, without the function: the graph is stored with the run as it was
    announced, and inputs are checked as far as their schemas go."""

    def __init__(self, name: str, info: Mapping[str, Any]) -> None:
        self.name = name
        #: The graph's JSON, as it is stored with a run.
        self.text: str = info["graph"]
        self._doc: str = info.get("doc") or ""
        #: By name, in order: ``schema``, ``exact``, perhaps ``default``; see ``announcement``.
        self.inputs: Mapping[str, Mapping[str, Any]] = info.get("inputs") or {}

    def __repr__(self) -> str:
        return f"<announced pipeline {self.name!r}>"

    @functools.cached_property
    def graph(self) -> Graph:
        """Raises ``InvalidInput`` for one that a newer release has written."""
        return read(self.text)

    def describe(self) -> str:
        """As ``Pipeline.describe``."""
        return self._doc

    def encode(self, inputs: Any, max_bytes: int) -> str:
        """As ``Pipeline.encode``."""
        given = by_name(self.name, list(self.inputs), inputs)
        defaults, values = self.defaults, {}
        for name in self.inputs:
            if name not in given and name not in defaults:
                raise missing_input(self.name, name)
            values[name] = given[name] if name in given else defaults[name]
            self.check(name, values[name])
        return write_input(self.name, values, codec=None, max_bytes=max_bytes)

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """As ``Pipeline.defaults``, but for those that JSON has not."""
        return {name: about["default"] for name, about in self.inputs.items() if "default" in about}

    def check(self, name: str, value: Any) -> None:
        """As ``Pipeline.check``, as far as the schema goes."""
        about = self.inputs[name]
        fault = misfit(about.get("schema") or {}, value) if about.get("exact") else None
        if fault is not None:
            raise InvalidInput(
                f"the input {name!r} does not fit pipeline {self.name!r}: {fault}",
                fix=f"`penstock pipeline show {self.name}` prints its inputs",
            )


def announcement(pipeline: Pipeline) -> dict[str, Any]:
    """What a worker tells of a pipeline when it registers.

    ``graph`` is JSON text; each of the ``inputs`` has its JSON ``schema``, whether that is ``exact``, and a ``default``
    unless it is required. A default that JSON has not cannot be filled in by others: they have to give the input.
    """
    try:
        adapters = pipeline.adapters
    except ConfigError as error:  # the worker's models have nothing to do with it
        log.warning("%s; it is announced without their types", error.message)
        adapters = {}
    inputs = {}
    for name, parameter in inspect.signature(pipeline.function).parameters.items():
        inputs[name] = _types(adapters.get(name))
        if parameter.default is not parameter.empty:
            try:
                inputs[name]["default"] = constant(parameter.default)
            except NotSerializable as error:
                log.warning("the default of input %r of pipeline %r: %s", name, pipeline.name, error.message)
    return {"graph": pipeline.text, "doc": pipeline.describe(), "inputs": inputs}


def _types(adapter: TypeAdapter[Any] | None) -> dict[str, Any]:
    if adapter is None:
        return {"schema": {}, "exact": False}
    try:
        return {"schema": adapter.json_schema(), "exact": tells_all(adapter.core_schema)}
    except BaseException as error:  # it has none, or the type's own code raises
        if not usercode.is_its_own(error):
            raise
        return {"schema": {}, "exact": False}
