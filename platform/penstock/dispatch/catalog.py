"""Which models exist, and what a producer can know about them.

A model whose class can be imported here (settings ``models``, installed entry points, or the class itself in the
caller's hand) is checked against its input type before anything is stored. Any other is known from what its workers
announced; then its worker checks the input.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.clock import monotonic_s
from penstock.errors import ConfigError, InvalidInput
from penstock.model import ItemCodec, Model, check_model, codec_of
from penstock.payload import write_input
from penstock.registry import Registry, unknown_model
from penstock.settings import Settings
from penstock.store import Store

log = logging.getLogger(__name__)

#: What workers announced is read again after so long, seconds: a new version is seen that late.
FRESH_S = 30.0
#: A name that nobody announced is looked up again after so long, seconds: bounds the queries of a typo in a loop.
MISS_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A model as a producer sees it. ``codec`` is there when its class is."""

    name: str
    version: str
    codec: ItemCodec | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, value: Any, max_bytes: int) -> str:
        """One input as JSON text; raises ``InvalidInput``, ``NotSerializable`` or ``TooLarge``."""
        return write_input(self.name, value, codec=self.codec, max_bytes=max_bytes)


class Catalog:
    """Finds targets. Thread-safe; imports the user's models and reads the database only when it has to."""

    def __init__(self, settings: Settings, store: Store, *, registry: Registry | None = None) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._local: dict[str | type[Model], Target] = {}
        self._announced: dict[str, Target] = {}
        self._read_at = float("-inf")
        self._mutex = threading.Lock()

    def find(self, model: str | type[Model]) -> Target:
        """The target of a name or class; raises ``UnknownModel``, or ``StoreUnavailable`` when it had to ask."""
        target = self._local.get(model)
        if target is not None:
            return target
        if not isinstance(model, str):
            cls = _checked(model)
        elif model in self._registered():
            cls = self._registered().get(model)
        else:
            return self._find_announced(model)
        target = self._local[model] = _local(cls)
        return target

    def all(self) -> dict[str, Target]:
        """Everything known, by name; a class that can be imported here wins over an announcement."""
        with self._mutex:
            self._read()
            return self._announced | {cls.name: _local(cls) for cls in self._registered()}

    def _find_announced(self, name: str) -> Target:
        with self._mutex:
            age_s = monotonic_s() - self._read_at
            if age_s > (FRESH_S if name in self._announced else MISS_S):
                self._read()
            target = self._announced.get(name)
        if target is None:
            raise unknown_model(name, {*self._announced, *(cls.name for cls in self._registered())})
        return target

    def _read(self) -> None:
        self._announced = announced(self._store.models())
        self._read_at = monotonic_s()

    def _registered(self) -> Registry:
        if self._registry is None:
            try:
                self._registry = Registry.load(self._settings.models)
            except ConfigError as error:
                # A producer need not have what a model needs (torch, say): its worker validates instead.
                log.warning("models are not validated here: %s", error.message)
                self._registry = Registry()
        return self._registry


def announced(infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Target]:
    """Targets of what workers announced: name -> ``{"version": …, "schema": …, …}``."""
    return {name: Target(name, str(info.get("version", "")), info=info) for name, info in infos.items()}


def _local(cls: type[Model]) -> Target:
    return Target(cls.name, cls.version, codec_of(cls))


def _checked(model: Any) -> type[Model]:
    if isinstance(model, type) and issubclass(model, Model):
        check_model(model)
        return model
    raise InvalidInput(f"{model!r} is no model", fix='pass its name, for example "embed", or its class')
