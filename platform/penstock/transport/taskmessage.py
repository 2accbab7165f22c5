"""Messages of plain Celery tasks in runs, and what comes back of them. PURE.

A task's message is a stock one of protocol 2, whose ``link`` and ``link_error`` are two calls that nobody runs: they
stand in a queue of ours with what the task gave, and say which job and attempt it was. So any worker can answer,
whatever its program is.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from penstock.jsontext import UNREADABLE, lax
from penstock.pipelines.task import MAX_NAME, Task
from penstock.transport import keys
from penstock.transport.unpacking import MOST_UNPACKED

#: The names of the calls that come back, behind the namespace.
RETURNED, RAISED = "task.returned", "task.raised"
#: Length of the arguments' beginning that monitors show, characters.
_REPR_CHARS = 64
#: As many as SQL can count.
_MOST_ATTEMPTS = 2**31 - 1

_json = msgspec.json.encode


class TaskCall(NamedTuple):
    """A call of a task: the job that it is, ``args`` and ``kwargs`` as JSON texts, Unix seconds."""

    job: str
    run: str
    attempt: int
    task: Task
    args: bytes
    kwargs: bytes
    expires_at: float | None


class Return(NamedTuple):
    """What a worker says of a call: ``output``, JSON text, or that it ``raised``; neither: it gave what is no JSON."""

    job: str
    attempt: int
    output: str | None
    raised: bool = False


def encode(call: TaskCall, namespace: str) -> bytes:
    """The message, as it stands in the queue's list."""
    task, shown = call.task, call.args.decode()
    headers: dict[str, Any] = {
        **task.headers,
        "lang": "py",
        "task": task.name,
        "id": call.job,
        "shadow": None,
        "eta": None,
        "expires": _date(call.expires_at),
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [task.time_limit, task.soft_time_limit],
        "root_id": call.run,
        "parent_id": None,
        "argsrepr": shown if len(shown) <= _REPR_CHARS else shown[:_REPR_CHARS] + "...",
        "kwargsrepr": call.kwargs.decode()[:_REPR_CHARS],
        "origin": "penstock",
        "ignore_result": task.ignore_result,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    embed = {
        "callbacks": [_back(RETURNED, call, namespace)],
        "errbacks": [_back(RAISED, call, namespace)],
        "chain": None,
        "chord": None,
    }
    body = _json([msgspec.Raw(call.args), msgspec.Raw(call.kwargs), embed]).decode()
    properties = {
        "correlation_id": call.job,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": task.queue},
        "priority": task.priority,
        "body_encoding": "utf-8",
        "delivery_tag": call.job,
    }
    return _json(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


def queue_key(task: Task) -> str:
    """The list that stock workers of its queue take it from."""
    return keys.list_key(task.queue, task.priority)


def return_keys(namespace: str) -> list[str]:
    """The lists in which returns may stand: Celery may give a callback its task's priority, by the steps of its app."""
    queue = keys.returns(namespace)
    return [queue, *(f"{queue}{keys.SEP}{step}" for step in range(1, 10))]


def decode(raw: bytes, namespace: str) -> Return | None:
    """What came back; ``None`` for what is none, or cannot be read."""
    try:
        name, args, readable = _call_of(_loads(raw)[0])
        value, job, attempt = args
    except (*UNREADABLE, ValueError, TypeError, KeyError, AttributeError, zlib.error):
        return None
    # Anybody may write to a queue: what no job can be called is none of ours, and a database may refuse to look for it.
    if not isinstance(job, str) or not job.isprintable() or len(job) > MAX_NAME:
        return None
    if type(attempt) is not int or not 0 < attempt <= _MOST_ATTEMPTS:
        return None
    if name == f"{namespace}.{RAISED}":
        return Return(job, attempt, None, raised=True)
    if name != f"{namespace}.{RETURNED}":
        return None
    return Return(job, attempt, _json(value).decode() if readable else None)


def _back(name: str, call: TaskCall, namespace: str) -> Mapping[str, Any]:
    """A signature of ours; what it is called with stands before its own arguments."""
    return {
        "task": f"{namespace}.{name}",
        "args": [call.job, call.attempt],
        "kwargs": {},
        "options": {"queue": keys.returns(namespace), "ignore_result": True},
        "subtask_type": None,
        "immutable": False,
        "chord_size": None,
    }


def _call_of(message: Any) -> tuple[str, list[Any], bool]:
    """Name and arguments, of protocol 2 or 1, and whether they are JSON: stock workers write ``NaN``, too."""
    body: Any = message["body"]
    headers = message.get("headers") or {}
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body, validate=True)
    if headers.get("compression") in ("application/x-gzip", "application/gzip"):
        stream = zlib.decompressobj()
        body = stream.decompress(body, MOST_UNPACKED)
        if not stream.eof:
            raise ValueError("it is larger than it may be")
    body, readable = _loads(body)
    if isinstance(body, dict):
        return body["task"], body["args"], readable
    return headers["task"], body[0], readable


def _loads(text: str | bytes) -> tuple[Any, bool]:
    """The value, and whether the text is JSON. Monitors' fields repeat what was given, whatever it is."""
    try:
        return msgspec.json.decode(text), True
    except UNREADABLE:
        return lax(text), False


def _date(at: float | None) -> str | None:
    """A time without a date (before the year 1, after 9999) is none to stock tools."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
