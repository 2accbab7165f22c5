"""The one way of values into the system and out of it: every entrance and exit writes its JSON here.

What the worker validates equals what the producer gave, or the producer is told where it does not. A value of JSON's
own is written as it is. Others (dates, decimals, sets, keys that are no text …) pass where the item type declares them,
which only who has the model's class can know: there the item type itself writes them, and they are read back and
compared.
"""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from penstock.errors import InvalidInput, InvalidOutput, NotSerializable, TooLarge
from penstock.jsontext import NotJSON, loads, look, not_json, quick, written
from penstock.plain import Plain

if TYPE_CHECKING:
    from penstock.codec import ItemCodec

#: What Celery's JSON (kombu's) writes with its type, and reads as it was.
_MARKED = (date, time, Decimal, UUID, bytes)
_FIX = "pass text, numbers, lists, dicts, dataclasses, pydantic models, arrays or tensors"


class Unfaithful(ValueError):
    """JSON text that would not be read as it was written."""


def write_input(model: str, value: Any, *, codec: ItemCodec | None, max_bytes: int, fits: bool = True) -> str:
    """One input as JSON text; raises ``InvalidInput``, ``NotSerializable`` or ``TooLarge``.

    With the item type's ``codec`` the input is validated; not with ``fits=False``, where its worker does so later.
    """
    data = quick(value)
    if data is None:
        text, size = _write_other(model, value, codec)
    else:
        text, size = data.decode(), len(data)
        if codec is not None and fits:
            _validate(codec, value, text)
    if size > max_bytes:
        raise too_large(model, size, max_bytes)
    return text


def too_large(model: str, size: int, max_bytes: int) -> TooLarge:
    """The refusal of an input of this size."""
    return TooLarge(
        f"the input for model {model!r} has {size:,} bytes of JSON; the limit is {max_bytes:,}",
        fix="pass a path or URL that the worker can read, or raise PENSTOCK_JOB__MAX_INPUT_BYTES",
    )


def for_celery(model: str, value: Any, codec: ItemCodec | None = None) -> Any:
    """An argument as a Celery message carries it unchanged; raises ``NotSerializable`` for what it would not.

    With the item type's ``codec`` it is taken as the whole item, and may be whatever the item type declares. Dates,
    decimals, UUIDs and bytes are left to Celery, which marks them: the worker judges them with the item type.
    """
    try:
        found = look(value)
        faults = [each for each in found.strange if each.is_key or not isinstance(each.leaf, _MARKED)]
        if not faults:
            return found.form
        if codec is not None and (text := codec.write(value, found)) is not None:
            return loads(text)
        fault = not_json(faults[0])
    except NotJSON as error:
        fault = error
    raise _refusal(model, fault)


def constant(value: Any) -> Any:
    """A value as JSON has it, lists for tuples and arrays; raises ``NotSerializable``."""
    try:
        found = look(value)
        if not found.strange:
            return loads(written(found))
        fault = not_json(found.strange[0])
    except NotJSON as error:
        fault = error
    raise NotSerializable(f"a constant holds {fault}, which JSON has not", fix=fault.fix or _FIX)


def write_output(value: Any, what: str, *, max_bytes: int, fix: str = "") -> str:
    """``what`` a model gave as JSON text; raises ``InvalidOutput``."""
    data = quick(value)
    try:
        text = written(look(value)) if data is None else data.decode()
    except NotJSON as error:
        raise InvalidOutput(
            f"the model's {what} holds {error}",
            fix=error.fix or "return numbers, text, lists, dicts, dataclasses, pydantic models, arrays or tensors",
        ) from None
    size = len(text.encode()) if data is None else len(data)
    if size > max_bytes:
        raise InvalidOutput(f"the model's {what} has {size} bytes of JSON; the limit is {max_bytes}", fix=fix)
    return text


def read_strictly(text: str | bytes) -> Any:
    """The value of a person's or a program's JSON text; raises ``ValueError``, ``Unfaithful`` where reading changes it.

    That is: a key twice in one object, of which the last would win, and numbers that Python cannot hold.
    """
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)


def check_keys(text: str | bytes) -> None:
    """Raise ``Unfaithful`` for a key that is twice in one object."""
    json.loads(text, object_pairs_hook=_once)


def _validate(codec: ItemCodec, value: Any, text: str) -> None:
    try:
        codec.validate(value)
    except InvalidInput as fault:
        # It may fit as the JSON that the worker reads: strict types take dates as text there, and only there.
        try:
            codec.decode(text)
        except InvalidInput:
            raise fault from None


def _write_other(model: str, value: Any, codec: ItemCodec | None) -> tuple[str, int]:
    misfit: InvalidInput | None = None
    try:
        found = look(value)
        if not found.strange:
            text = written(found)
            if codec is not None:
                codec.decode(text)
            return text, len(text.encode())
        fault = not_json(found.strange[0])
    except NotJSON as error:
        found, fault = Plain(value, []), error
    except InvalidInput as error:
        misfit = error
    if codec is not None and (own := codec.write(value, found)) is not None:
        return own, len(own.encode())
    if misfit is not None:
        raise misfit
    raise _refusal(model, fault)


def _refusal(model: str, fault: NotJSON) -> NotSerializable:
    return NotSerializable(f"the input for model {model!r} holds {fault}, which JSON has not", fix=fault.fix or _FIX)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unfaithful(f"the key {twice!r:.80} is twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise Unfaithful(f"no float can hold {text:.80}")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Unfaithful(f"the number {text:.20}… is too long") from None
