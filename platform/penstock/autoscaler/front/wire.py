"""The messages of KEDA's external scaler protocol, as Protocol Buffers write them: PURE, and without that library.

There are two messages to read and three to write, of strings, numbers and one map; a dependency and generated code
would be more than this. The protocol is KEDA's ``externalscaler.proto``; the tests compile that and compare.

=========================  =====================================================================
message                    fields
=========================  =====================================================================
``ScaledObjectRef``        1 name, 2 namespace, 3 scalerMetadata: map of {1 key, 2 value}
``GetMetricsRequest``      1 scaledObjectRef, 2 metricName
``IsActiveResponse``       1 result
``GetMetricSpecResponse``  1 metricSpecs: {1 metricName, 2 targetSize, 3 targetSizeFloat}
``GetMetricsResponse``     1 metricValues: {1 metricName, 2 metricValue, 3 metricValueFloat}
=========================  =====================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """Who asks: a ``ScaledObject`` of a cluster, with the metadata of its trigger."""

    name: str = ""
    namespace: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def scaled_object(data: bytes) -> ScaledObject:
    """Read a ``ScaledObjectRef``. Raises ``ValueError`` for what is none."""
    texts = {1: "", 2: ""}
    metadata: dict[str, str] = {}
    for number, value in _fields(data):
        if number in texts:
            texts[number] = _text(value)
        elif number == 3:
            entry = {1: "", 2: ""}
            entry |= {part: _text(said) for part, said in _fields(_bytes(value)) if part in entry}
            metadata[entry[1]] = entry[2]
    return ScaledObject(texts[1], texts[2], metadata)


def metrics_request(data: bytes) -> tuple[ScaledObject, str]:
    """Read a ``GetMetricsRequest``: who asks, and for which metric. Raises ``ValueError`` for what is none."""
    asker, metric = b"", ""
    for number, value in _fields(data):
        if number == 1:
            asker += _bytes(value)  # a message that comes in parts is their sum
        elif number == 2:
            metric = _text(value)
    return scaled_object(asker), metric


def is_active(result: bool) -> bytes:
    """An ``IsActiveResponse``."""
    return b"\x08\x01" if result else b""


def metric(name: str, value: int) -> bytes:
    """A ``GetMetricSpecResponse`` or a ``GetMetricsResponse`` of one metric: both have this form.

    The number stands there twice, whole for old readers and as a float for newer ones.
    """
    text = name.encode()
    inner = b"\x0a" + _varint(len(text)) + text
    if value:
        inner += b"\x10" + _varint(value) + b"\x19" + struct.pack("<d", value)
    return b"\x0a" + _varint(len(inner)) + inner


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        elif kind in (_FIXED64, _BYTES, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            if kind == _BYTES:
                size, at = _read_varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than its message")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"a field has the unknown type {kind}")
        yield number, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & (2**64 - 1), at + place + 1
    raise ValueError("a number does not end")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("a number stands where text or a message should")


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()
