"""Which models exist, and what a producer can know about them.

A model whose class can be imported here (settings ``models``, installed entry points, or the class itself in the
caller's hand) is checked against its input type before anything is stored. Any other is known from what its workers
announced; then its worker checks the input.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.clock import monotonic_s
from penstock.errors import ConfigError, InvalidInput, NotSerializable, TooLarge
from penstock.jsontext import NotJSON, dumps, has_nonfinite
from penstock.lane import split_name
from penstock.model import MAX_VERSION, ItemCodec, Model, check_model, codec_of
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
    """A model as a producer sees it, of the version ``asked`` for, if any. ``codec`` is there when its class is."""

    name: str
    asked: str | None = None
    codec: ItemCodec | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, value: Any, max_bytes: int) -> str:
        """One input as JSON text; raises ``InvalidInput``, ``NotSerializable`` or ``TooLarge``."""
        if self.codec is not None:
            tolist = getattr(value, "tolist", None)  # arrays and tensors: pydantic knows lists only
            value = self._validate(self.codec, value if tolist is None else tolist())
        text = self._dumps(value)
        # A character is at most four bytes, so most texts need not be encoded to be measured.
        if len(text) * 4 > max_bytes and (size := len(text.encode())) > max_bytes:
            raise TooLarge(
                f"the input for model {self.name!r} has {size:,} bytes of JSON; the limit is {max_bytes:,}",
                fix="pass a path or URL that the worker can read, or raise PENSTOCK_JOB__MAX_INPUT_BYTES",
            )
        return text

    def _validate(self, codec: ItemCodec, value: Any) -> Any:
        try:
            return codec.validate(value)
        except InvalidInput as fault:
            # It may fit as the JSON that the worker would read: a dict with an array in it, say.
            try:
                return codec.decode(dumps(value))
            except (NotJSON, InvalidInput):
                raise fault from None

    def _dumps(self, value: Any) -> str:
        if isinstance(value, (bytes, bytearray, memoryview)) or (
            self.codec is None and isinstance(value, (set, frozenset))
        ):
            # They would come out as something else: as base64 text, as a list in any order.
            raise NotSerializable(
                f"the input for model {self.name!r} is of type {type(value).__name__}, which JSON has not",
                fix="pass text (base64.b64encode(data).decode(), say) or a list",
            )
        try:
            text = dumps(value)
            # JSON has no such number and ``dumps`` writes null: only a text with one in it has to be looked through.
            if "null" in text and has_nonfinite(value):
                raise NotSerializable(
                    f"the input for model {self.name!r} holds NaN or an infinity, which JSON has not",
                    fix="pass None, or leave it out",
                )
            return text
        except NotJSON as error:
            raise NotSerializable(
                f"the input for model {self.name!r} has no JSON form: {error}",
                fix="pass text, numbers, lists, dicts, dataclasses, pydantic models, arrays or tensors",
            ) from error


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
        """The target of a name, ``name@version`` or class.

        Raises ``UnknownModel``, ``InvalidInput`` for a version, or ``StoreUnavailable`` when it had to ask.
        """
        target = self._local.get(model)
        if target is not None:
            return target
        if not isinstance(model, str):
            target = self._local[model] = _local(_checked(model))
            return target
        name, asked = split_name(model)
        if asked is not None:
            _check_version(name, asked)
        if name not in self._registered():
            found = self._find_announced(name)
            # Whether a worker serves that version now is not asked: it may come.
            return found if asked is None else replace(found, asked=asked)
        cls = self._registered().get(name)
        # Another version may take other inputs: its worker validates.
        target = _local(cls) if asked is None else Target(name, asked, codec_of(cls) if asked == cls.version else None)
        if target.codec is not None:  # of names that anybody can make up, none is kept
            self._local[model] = target
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
    return {name: Target(name, info=info) for name, info in infos.items()}


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
    raise InvalidInput(f"{model!r} is no model", fix='pass its name, for example "embed", or its class')
