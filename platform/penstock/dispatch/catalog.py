"""Which models and pipelines exist, and what a producer can know about them.

Inputs are checked before anything is stored. By the model's class, where it costs nothing: it is in the caller's hand,
its module is imported already, or the client was told to (``models=``). Else by the schema that its workers announced,
as far as that goes; its worker checks the rest. Only of a model that nobody announced yet the modules of the setting
``models`` and the installed entry points are imported: torch takes seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.arguments import shown
from penstock.calltypes import schemas_of
from penstock.clock import monotonic_s
from penstock.codec import ItemCodec, codec_of
from penstock.dispatch.canvases import Canvas, as_graph
from penstock.dispatch.tasks.routing import route_by
from penstock.errors import ConfigError, InvalidInput, Rejected, UnknownModel
from penstock.functions import Function
from penstock.itemschema import at_once, misfit
from penstock.lane import split_name
from penstock.model import MAX_VERSION, Model, check_model
from penstock.payload import write_input
from penstock.pipelines.announced import Announced
from penstock.pipelines.graph import Graph
from penstock.pipelines.nested import all_steps
from penstock.pipelines.plaingraph import PlainGraph, from_graph
from penstock.pipelines.shapes.connected import Called, fault
from penstock.pipelines.shapes.shape import read
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.registry import Registry, Source, are_imported, unknown_model
from penstock.settings import Settings
from penstock.store import Store

log = logging.getLogger(__name__)

#: What workers announced is read again after so long, seconds: a new version is seen that late.
FRESH_S = 30.0
#: A name that nobody announced is looked up again after so long, seconds: bounds the queries of a typo in a loop.
MISS_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A model as a producer sees it, of the version ``asked`` for, if any. ``codec`` is there when its class is."""

    name: str
    asked: str | None = None
    codec: ItemCodec | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    #: Types of which every value fits the schema that was announced.
    fine: frozenset[type] = frozenset()
    #: Where it is a pipeline, a graph or a canvas: jobs of it are runs.
    pipeline: Pipeline | Announced | PlainGraph | Canvas | None = None

    @property
    def called(self) -> Called:
        """What is known of what it takes and gives."""
        known = self.info if self.codec is None else schemas_of(self.codec.of)._asdict()
        return Called(read(known.get("takes")), read(known.get("gives")))

    def encode(self, value: Any, max_bytes: int) -> str:
        """One input as JSON text; raises ``InvalidInput``, ``NotSerializable`` or ``TooLarge``."""
        if self.pipeline is not None:
            return self.pipeline.encode(value, max_bytes)
        if self.codec is None and type(value) not in self.fine:
            self._check(value)
        return write_input(self.name, value, codec=self.codec, max_bytes=max_bytes)

    def _check(self, value: Any) -> None:
        """By the schema that was announced."""
        if not self.info.get("exact"):
            return
        fault = misfit(self.info.get("schema") or {}, value)
        if fault is not None:
            raise InvalidInput(
                f"the input does not fit model {self.name!r}: {fault}",
                fix=f"`penstock model show {self.name}` prints the input's schema",
            )


class Catalog:
    """Finds targets. Thread-safe; imports the user's models and reads the database only when it has to."""

    def __init__(self, settings: Settings, store: Store, *, registry: Source | None = None) -> None:
        self._settings = settings
        self._store = store
        #: Given, it comes before what was announced.
        self._given = registry
        self._registry: Registry | None = registry if isinstance(registry, Registry) else None
        self._imported: bool | None = None
        self._local: dict[str | type[Model], Target] = {}
        self._announced: dict[str, Target] = {}
        #: Pipelines that were passed as objects, perhaps of a module that nobody else has.
        self._in_hand: dict[str, Pipeline] = {}
        self._read_at = float("-inf")
        self._mutex = threading.Lock()

    def find(self, model: str | type[Model] | Pipeline | Function | Graph | Mapping[str, Any]) -> Target:
        """The target of a name, ``name@version``, class, pipeline, graph or canvas.

        Raises ``UnknownModel``, ``InvalidInput`` for a version or a graph, or ``StoreUnavailable`` when it had to ask.
        """
        if isinstance(model, (str, type)) and (target := self._local.get(model)) is not None:
            return target
        if isinstance(model, Mapping):
            limit = self._settings.job.max_input_bytes
            canvas = as_graph(model, self._settings.namespace, self.find, limit, route_by(self._settings))
            return Target(canvas.name, pipeline=canvas)
        if isinstance(model, Pipeline):
            self._in_hand[model.name] = model
            return Target(model.name, pipeline=model)
        if isinstance(model, Graph):
            return self._of_graph(from_graph(model))
        if isinstance(model, Function):
            model = model.model
        if not isinstance(model, (str, type)):  # nor, perhaps, anything that can be a key
            raise _no_model(model)
        if (target := self._local.get(model)) is not None:  # of a function
            return target
        if not isinstance(model, str):
            target = self._local[model] = _local(_checked(model))
            return target
        name, asked = split_name(model)
        if asked is not None:
            _check_version(name, asked)
        found = None if self._classes_first() else self._find_announced(name)
        if found is None and (pipeline := self._registered().pipelines.get(name)) is not None:
            found = Target(name, pipeline=pipeline)
        if found is None and name not in self._registered():
            found = self._find_announced(name)
            if found is None:
                raise self._unknown(name)
        if found is not None and found.pipeline is not None and asked is not None:
            raise InvalidInput(
                f"{name!r} is a pipeline, and pipelines have no versions",
                fix=f'write "{name}"; a step can ask for a version of its model: "embed@2"',
            )
        if found is not None:
            # Whether a worker serves that version now is not asked: it may come. It may take other inputs, too.
            return found if asked is None else replace(found, asked=asked, info={}, fine=frozenset())
        cls = self._registered().get(name)
        # Another version may take other inputs: its worker validates.
        target = _local(cls) if asked is None else Target(name, asked, codec_of(cls) if asked == cls.version else None)
        if target.codec is not None:  # of names that anybody can make up, none is kept
            self._local[model] = target
        return target

    def pipeline_of(self, name: str, graph: str) -> Pipeline | Announced | None:
        """The pipeline of this name, if its runs now have the very graph of this JSON text: what is known of its inputs
        is then true of those of a run with it."""
        found: object = self._in_hand.get(name)
        if isinstance(found, Pipeline) and found.text == graph:
            return found
        try:
            found = self.find(name).pipeline
        except Rejected:  # of a graph that is data, a canvas, or a pipeline that is gone
            return None
        return found if isinstance(found, Pipeline | Announced) and found.text == graph else None

    def _of_graph(self, graph: PlainGraph) -> Target:
        """Each time anew: what it names may be gone."""
        known: dict[str, Called] = {}
        for step in all_steps(graph.graph):
            if step.task is not None:  # it may be a stranger's, and must not reach the queues of other programs
                raise InvalidInput(
                    f"step {step.name!r} calls the plain Celery task {step.task.name!r:.80}, as a canvas alone may",
                    fix="write a canvas, client.enqueue(chain(…)), or make the task a step: @penstock.step",
                )
            if step.kind != "call" or step.model in known:
                continue
            try:
                target = self.find(step.model)
            except Rejected as error:
                if isinstance(error, UnknownModel):  # no pipeline is meant
                    error = self._unknown(split_name(step.model)[0], pipelines=False)
                error.message = f"step {step.name!r}: {error.message}"
                raise error from None
            if target.pipeline is not None:
                raise InvalidInput(
                    f"step {step.name!r} calls {step.model!r}, which is a pipeline",
                    fix="write its steps into the graph",
                )
            known[step.model] = target.called
        if (found := fault(graph.graph, known, {})) is not None:
            raise InvalidInput(
                f"the graph can never work: {found}", fix="`penstock model show` prints what models take"
            )
        return Target(graph.name, pipeline=graph)

    def all(self) -> dict[str, Target]:
        """Everything known, by name; a class that can be imported here wins over an announcement."""
        with self._mutex:
            self._read()
            return self._announced | {cls.name: _local(cls) for cls in self._registered()}

    def _classes_first(self) -> bool:
        if self._given is not None or self._registry is not None:
            return True
        if self._imported is None:
            self._imported = are_imported(self._settings.models)
        return self._imported

    def _find_announced(self, name: str) -> Target | None:
        with self._mutex:
            age_s = monotonic_s() - self._read_at
            if age_s > (FRESH_S if name in self._announced else MISS_S):
                self._read()
            return self._announced.get(name)

    def _unknown(self, name: str, *, pipelines: bool = True) -> UnknownModel:
        runs = {each for each, target in self._announced.items() if target.pipeline is not None}
        models = self._announced.keys() - runs | {cls.name for cls in self._registered()}
        return unknown_model(name, models, runs | self._registered().pipelines.keys() if pipelines else ())

    def _read(self) -> None:
        self._announced = announced(self._store.models(), self._store.pipelines())
        self._read_at = monotonic_s()

    def _registered(self) -> Registry:
        if self._registry is None:
            try:
                given = self._given
                self._registry = given() if callable(given) else Registry.load(self._settings.models)
            except ConfigError as error:
                # A producer need not have what a model needs (torch, say): its worker validates instead.
                log.warning("models are not validated here: %s", error.message)
                self._registry = Registry()
        return self._registry


def announced(
    models: Mapping[str, Mapping[str, Any]], pipelines: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Target]:
    """Targets of what workers announced of models, ``{"version": …, "schema": …, …}`` by name, and of pipelines,
    ``{"graph": …, "inputs": …}``. A model wins: its jobs are there."""
    runs = {name: Target(name, pipeline=Announced(name, info)) for name, info in (pipelines or {}).items()}
    return runs | {name: Target(name, info=info, fine=at_once(info.get("schema"))) for name, info in models.items()}


def _local(cls: type[Model]) -> Target:
    return Target(cls.name, codec=codec_of(cls))


def _check_version(name: str, version: str) -> None:
    if not (0 < len(version) <= MAX_VERSION and version.isprintable()):
        raise InvalidInput(
            f"{version!r:.80} is no version of model {name!r}",
            fix=f'write "{name}@2", or "{name}" for any version; `penstock model list` shows which are served',
        )


def _checked(model: Any) -> type[Model]:
    if isinstance(model, type) and issubclass(model, Model):
        check_model(model)
        return model
    raise _no_model(model)


def _no_model(model: Any) -> InvalidInput:
    if hasattr(model, "apply_async"):  # Celery is not imported for it
        return InvalidInput(f"{shown(model)} is a plain Celery task", fix="pass a signature of it: task.s(…)")
    return InvalidInput(f"{shown(model)} is no model", fix='pass its name, for example "embed", or its class')
