"""The item of a model: its type, as the hints have it, and the codec between items and JSON text."""

from __future__ import annotations

import functools
import inspect
import logging
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock import usercode
from penstock.errors import ConfigError, InvalidInput, safe_text
from penstock.itemschema import tells_all
from penstock.itemtypes import raw_bytes
from penstock.plain import Strange, plain

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from penstock.model import Model
    from penstock.plain import Plain

log = logging.getLogger(__name__)


class ItemCodec:
    """Validates one item of a model's input and turns it into JSON text and back.

    Made from the hint of the batch parameter of ``predict`` (``begin`` for a ``StepModel``): ``list[T]`` or
    ``Sequence[T]`` gives ``T``, anything else ``Any``.
    """

    def __init__(self, cls: type[Model]) -> None:
        self.name = cls.name
        self.of = cls
        self.type = item_type(cls)
        refuse_bytes(cls, self.type)

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        try:
            return TypeAdapter(self.type)
        except PydanticUserError as error:  # an unknown class, or typing.TypedDict before Python 3.12
            raise ConfigError(
                f"the item type of model {self.name!r} cannot be validated: {str(error).splitlines()[0]}",
                fix="use built-in types, pydantic models, dataclasses, or typing_extensions.TypedDict",
            ) from None
        except BaseException as error:  # of the type's own code, such as __get_pydantic_core_schema__
            raise _not_usable(self.name, error) from error

    def validate(self, value: Any) -> Any:
        """The value as the item type; raises ``InvalidInput`` naming every fault."""
        return self._read(self._adapter.validate_python, value)

    def decode(self, text: str | bytes) -> Any:
        """JSON text as the item type; raises ``InvalidInput``."""
        return self._read(self._adapter.validate_json, text)

    def _read(self, read: Callable[[Any], Any], given: Any) -> Any:
        try:
            return read(given)
        except ValueError as error:  # pydantic's ValidationError is one
            raise self._invalid(error) from None
        except BaseException as error:  # of a validator that the user wrote
            if not usercode.is_its_own(error):
                raise
            raise self._invalid(error) from error

    def write(self, value: Any, found: Plain) -> str | None:
        """JSON text that is read as exactly this value, as the item type itself writes it; ``None`` where it cannot.

        ``found`` is the value as ``plain`` found it. Whatever JSON has no word for must be in what is read: a set that
        became a list, or a decimal that became a float, is not the same value.
        """
        for each in (value, found.form):
            try:
                valid = self._adapter.validate_python(each)
                text = self._adapter.dump_json(valid, by_alias=True, warnings=False).decode()
                read = self._adapter.validate_json(text)
                if read == valid and _keeps(plain(read).strange, found.strange):
                    return text
            except Exception:  # validators and comparisons are the users' own
                log.debug("model %s: the item type cannot write an input", self.name, exc_info=True)
        return None

    def schema(self) -> Mapping[str, Any]:
        """The item's JSON schema; empty where the type has none."""
        from pydantic.errors import PydanticInvalidForJsonSchema

        try:
            return self._adapter.json_schema()
        except PydanticInvalidForJsonSchema:
            return {}
        except ConfigError:
            raise
        except BaseException as error:
            raise _not_usable(self.name, error) from error

    def schema_tells_all(self) -> bool:
        """Whether a producer without the type may refuse inputs by the schema."""
        return tells_all(self._adapter.core_schema)

    def _invalid(self, error: Any) -> InvalidInput:
        if hasattr(error, "errors"):
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc'])) + ': ' if e['loc'] else ''}{e['msg']}" for e in error.errors()[:5]
            )
        elif isinstance(error, ValueError):  # text that is no Unicode
            faults = str(error)
        else:
            faults = f"a validator of its item type failed: {usercode.told(error)}"
        return InvalidInput(
            f"the input does not fit model {self.name!r}: {faults}",
            fix=f"`penstock model show {self.name}` prints the input's schema",
        )


def _not_usable(model: str, error: BaseException) -> ConfigError:
    """The error for an item type whose own code fails; raises what a signal brought."""
    if not usercode.is_its_own(error):
        raise error
    return ConfigError(
        f"the item type of model {model!r} cannot be used: {usercode.told(error)}",
        fix="mend the type in the hint of predict's batch",
    )


def _keeps(read: Sequence[Strange], given: Sequence[Strange]) -> bool:
    """Whether everything that was given is in what was read."""
    rest = [each.leaf for each in read]
    for strange in given:
        for place, leaf in enumerate(rest):
            if isinstance(leaf, type(strange.leaf)) and leaf == strange.leaf:
                del rest[place]
                break
        else:
            return False
    return True


_codecs: dict[type[Model], ItemCodec] = {}


def codec_of(cls: type[Model]) -> ItemCodec:
    """The codec of a model class, built once."""
    codec = _codecs.get(cls)
    if codec is None:
        codec = _codecs[cls] = ItemCodec(cls)
    return codec


def item_type(cls: type[Model]) -> Any:
    """``T`` of ``predict(self, batch: list[T])``, or ``Any`` when there is no such hint."""
    function = inspect.unwrap(cls.takes_batch())
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"the hints of {function.__qualname__} name something unknown: {error}",
            fix="import the item type at module level",
        ) from None
    except BaseException as error:
        raise _not_usable(cls.name, error) from error
    names = [p for p in inspect.signature(function).parameters if p != "self"]
    return item_of(hints.get(names[0]) if names else None)


def item_of(hint: Any) -> Any:
    """``T`` of ``list[T]``; ``Any`` of anything else."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    arguments = typing.get_args(hint)
    return arguments[0] if arguments else Any


def item_from_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The item that a Celery call means: ``f(x)`` is ``x``, ``f(a=1)`` is ``{"a": 1}``, ``f(x, y)`` is ``[x, y]``.

    Mixing both is ambiguous and raises ``InvalidInput``.
    """
    if kwargs and args:
        raise InvalidInput(
            "a model takes one item: positional and keyword arguments cannot be mixed",
            fix="pass one value, or only keyword arguments",
        )
    if kwargs:
        return dict(kwargs)
    return args[0] if len(args) == 1 else list(args)


def item_from_call_of(cls: type[Model], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The same of a call of this model: that of a function has its arguments by name. Raises ``InvalidInput``."""
    function = getattr(cls, "of_function", None)
    if function is None:
        return item_from_call(args, kwargs)
    try:
        return function.item(args, kwargs)
    except TypeError as error:
        raise InvalidInput(safe_text(error)) from None


def hint_of(cls: type[Model]) -> Any:
    """The hint of the batch; ``None`` where there is none, or none that can be read yet."""
    function = inspect.unwrap(cls.takes_batch())
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    try:
        return typing.get_type_hints(function, include_extras=True).get(names[0]) if names else None
    except BaseException as error:
        if not usercode.is_its_own(error):
            raise
        # Names that are defined further down; ``item_type`` tells when it is needed
        return None


def refuse_bytes(cls: type[Model], kind: Any) -> None:
    """Raise ``ConfigError`` for an item type with bytes in it: no producer could send them as they are."""
    if (found := raw_bytes(kind)) is not None:
        path, name = found
        raise ConfigError(
            f"{cls.__module__}.{cls.__qualname__} takes {name}{f' in its field {path[1:]}' if path else ''}, "
            "which JSON has not",
            fix="hint pydantic.Base64Bytes and send base64 text, or take a path or URL that the worker can read",
        )
