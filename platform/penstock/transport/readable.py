"""Messages of programs without penstock, looked at before kombu and Celery read them: PURE.

They trust what stands in a message: a list where a name is expected, or JSON that is nested a thousand deep, raises out
of the middle of them, and would end the worker, and the next one that is given the message. So what is read is checked
here, as far as they depend on it; and what they raise while they still read (``while_reading``) is the message's fault.
"""

from __future__ import annotations

import binascii
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import redis
from kombu.exceptions import OperationalError
from kombu.utils.json import loads

from penstock.errors import Unreachable

#: Encodings of a body inside the message that kombu knows.
_ENCODINGS = ("base64", "utf-8")

#: What Celery looks up, or writes as text, without looking at it first.
_TEXTS = ("task", "id", "root_id", "parent_id", "group", "shadow", "lang", "origin")


#: Who reads messages: where an error comes through anybody else, it is theirs.
_READERS = frozenset({"kombu", "celery", "vine", "penstock", "penstock_worker", *sys.stdlib_module_names})
#: Who runs tasks.
_RUNNERS = ("celery.concurrency", "celery.app.trace")


class Unreadable(ValueError):
    """No message, or none that kombu and Celery could read."""


def payload_of(raw: bytes, tag: int) -> dict[str, Any]:
    """The message as kombu's own transport would have it, with our tag. Raises ``Unreadable``."""
    try:
        payload = loads(raw.decode())
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise Unreadable(f"no JSON: {type(error).__name__}") from error
    if not isinstance(payload, dict):
        raise Unreadable("no object")
    _check(payload)
    payload["properties"]["delivery_tag"] = tag
    if payload.pop("redelivered", False):
        payload["headers"] = {**(payload.get("headers") or {}), "redelivered": True}
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
    return payload


def _check(payload: dict[str, Any]) -> None:
    properties, headers, body = payload.get("properties"), payload.get("headers"), payload.get("body")
    if not isinstance(properties, dict):
        raise Unreadable("properties are no object")
    if headers is not None and not isinstance(headers, dict):
        raise Unreadable("headers are no object")
    if body is not None and not isinstance(body, str):
        raise Unreadable("the body is no text")
    info = properties.get("delivery_info")
    if info is None:
        properties.pop("delivery_info", None)
    elif not isinstance(info, dict):
        raise Unreadable("delivery_info is no object")
    _check_texts(payload, ("content-type", "content-encoding"))
    _check_texts(properties, ("body_encoding", "reply_to", "correlation_id"))
    _check_texts(headers or {}, _TEXTS)
    encoding = (properties.get("body_encoding") or "utf-8").lower()
    if encoding not in _ENCODINGS:
        raise Unreadable(f"unknown body_encoding {encoding!r:.50}")
    if encoding == "base64" and body:
        if properties["body_encoding"] != "base64":
            properties["body_encoding"] = "base64"  # kombu looks it up as it stands
        try:
            binascii.a2b_base64(body)
        except ValueError as error:
            raise Unreadable("the body is no base64") from error


def _check_texts(of: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if of.get(name) is not None and not isinstance(of[name], str):
            raise Unreadable(f"{name} is no text")


def while_reading(error: Exception) -> bool:
    """Whether an error from a delivery, where it is caught, is the message's fault.

    Not what a server refuses, nor what comes out of a task that ran (the solo pool runs it inside the delivery), nor
    what a program's own callback raises.
    """
    if isinstance(error, redis.RedisError | OSError | OperationalError | Unreachable | MemoryError):
        return False
    step: TracebackType | None = error.__traceback__
    while step is not None and (step := step.tb_next) is not None:  # behind whoever has caught it
        module = step.tb_frame.f_globals.get("__name__", "")
        if module.startswith(_RUNNERS) or module.partition(".")[0] not in _READERS:
            return False
    return True
