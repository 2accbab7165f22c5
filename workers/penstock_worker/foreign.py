"""What programs without penstock put into their messages, checked before anything depends on it: PURE.

A fault that leaves the message's id readable fails its job as ``invalid_input``, so that its sender hears of it. The
row then holds the message with what cannot be stored written out (``\\udc80`` for half of a surrogate pair).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.utils.json import dumps

from penstock.errors import InvalidInput, safe_text
from penstock.job import NewJob
from penstock.lane import MAX_PRIORITY
from penstock.transport.message import canvas_of
from penstock_worker.item import Item

#: What a message of protocol 2 says in its headers, and one of protocol 1 in its body. Its time and its expiry are the
#: row's.
HEADERS = (
    *("lang", "task", "id", "shadow", "group", "group_index", "retries", "timelimit", "root_id", "parent_id"),
    *("argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps"),
)

#: The fields of a message that name what follows its job.
_FOLLOWERS = ("chord", "callbacks", "errbacks", "chain")
#: Longest id of a message that becomes a job's, characters.
MAX_ID = 255


def check_id(id: Any) -> None:
    """Raise ``InvalidInput`` unless both databases can hold the id."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or not id.isprintable():
        raise InvalidInput(f"the message's id {id!r:.300} cannot be a job's", fix=f"1 to {MAX_ID} printable characters")


def priority_of(properties: Mapping[str, Any]) -> int:
    """The priority that a message asks for; one that is no number is none."""
    try:
        return min(max(int(properties.get("priority") or 0), 0), MAX_PRIORITY)
    except (TypeError, ValueError, OverflowError):
        return 0


def timeout_of(request: Any) -> float | None:
    """The time limit of a message, seconds; raises ``InvalidInput``.

    A model cannot be interrupted, so that a soft limit is one like the hard one; the shorter counts.
    """
    limits = request.time_limits
    try:
        given = [float(limit) for limit in (limits or ())[:2] if limit]
    except (TypeError, ValueError, LookupError, OverflowError):
        given = [math.nan]
    if not all(0 < limit < math.inf for limit in given):
        raise InvalidInput(f"the time limit {limits!r:.300} is not a time", fix="pass seconds, more than 0")
    return min(given, default=None)


def check_canvas(request: Any) -> None:
    """Raise ``InvalidInput`` unless what is to follow the job can be read: missed after the run, it would be too late.

    What cannot be read is left out of the request, so that the failure reaches whom it can.
    """
    payload = request._payload
    embed = payload[2] if isinstance(payload, list | tuple) and len(payload) > 2 else None
    broken = {}
    place: Any
    for place in (request.request_dict, embed):
        for name in _FOLLOWERS if isinstance(place, dict) else ():
            value = place.get(name)
            several = name != "chord" and isinstance(value, list | tuple)
            if value is not None and not all(map(_is_signature, value if several else [value])):
                broken[name] = value
                place[name] = None
    for name, value in broken.items():
        raise InvalidInput(
            f"the message's {name} {safe_text(repr(value)):.300} is no Celery signature",
            fix="send what Celery makes of a chord, a chain or a link",
        )


def _is_signature(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("task"), str) and bool(value["task"])


def adopt(
    item: Item, asked_version: str | None, request: Any, properties: Mapping[str, Any], timeout_s: float | None
) -> None:
    """Give ``item`` the row that its message becomes. Where that cannot keep it as it is, the item fails."""
    headers = headers_of(request)
    try:
        canvas = canvas_of(headers, body_of(request), properties)
    except Exception as error:
        if item.error is None:
            item.error = InvalidInput(f"the message cannot be stored: {safe_text(error)}")
        canvas = canvas_of(cleansed(headers), cleansed(request._payload), cleansed(properties))
    if item.error is not None:
        # It fails at once: nothing is gained by waiting for its time.
        item.not_before = None
    item.row = NewJob(
        id=item.id,
        model=item.model,
        asked_version=asked_version,
        input=item.input if item.input is not None else "null",
        lane=item.lane,
        accepted_at=item.claimed_at,
        available_at=item.not_before or item.claimed_at,
        priority=priority_of(properties),
        deadline_at=item.deadline_at,
        timeout_s=timeout_s,
        canvas=canvas,
    )


def headers_of(request: Any) -> dict[str, Any]:
    """The headers by which the message can be sent again, in protocol 2, whichever it came in."""
    given = request.message.headers or {}
    known = {name: request.request_dict[name] for name in HEADERS if name in request.request_dict}
    return {name: value for name, value in {**known, **given}.items() if name not in ("eta", "expires")}


def body_of(request: Any) -> Any:
    """``[args, kwargs, embed]``, as text where Celery's marks are needed: dates and the like are not plain text."""
    text = dumps(request._payload)
    return text if "__type__" in text else request._payload


def cleansed(value: Any) -> Any:
    """The value with every text valid, and what is no JSON as text."""
    if isinstance(value, Mapping):
        return {safe_text(name): cleansed(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [cleansed(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else safe_text(value)
