"""What programs without penstock put into their messages, checked before anything depends on it: PURE.

A fault that leaves the message's id readable fails its job as ``invalid_input``, so that its sender hears of it. The
row then holds the message with what cannot be stored written out (``\\udc80`` for half of a surrogate pair).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kombu.utils.json import dumps

from penstock import payload
from penstock.errors import InvalidInput, NotSerializable, Rejected, TooLarge, safe_text
from penstock.job import NewJob
from penstock.lane import MAX_PRIORITY
from penstock.transport.message import canvas_of
from penstock_worker.canvas.carried import Carried, read
from penstock_worker.item import Item

#: What a message of protocol 2 says in its headers, and one of protocol 1 in its body. Its time and its expiry are the
#: row's.
HEADERS = (
    *("lang", "task", "id", "shadow", "group", "group_index", "retries", "timelimit", "root_id", "parent_id"),
    *("argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps"),
)

#: The fields of a message that name what follows its job.
_FOLLOWERS = ("chord", "callbacks", "errbacks", "chain")
#: The header of a message that was refused, once it is stored.
REFUSED = "penstock_refused"

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
    body = request._payload
    embed = body[2] if isinstance(body, list | tuple) and len(body) > 2 else None
    broken = _leave_out(request.request_dict) | _leave_out(embed)
    for name, value in broken.items():
        raise InvalidInput(
            f"the message's {name} {safe_text(repr(value)):.300} is no Celery signature",
            fix="send what Celery makes of a chord, a chain or a link",
        )


def _leave_out(place: Any) -> dict[str, Any]:
    """Take out of a message's part what names a follower and cannot be read; what that was."""
    broken = {}
    for name in _FOLLOWERS if isinstance(place, dict) else ():
        value = place.get(name)
        several = [value] if name == "chord" else value
        if value is not None and not (isinstance(several, list | tuple) and all(map(_is_signature, several))):
            broken[name] = value
            place[name] = None
    return broken


def _is_signature(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("task"), str) and bool(value["task"])


def check_again(request: Any) -> None:
    """Raise what was said of this message before: its job was started again, and the message was not kept as it was."""
    said = request.request_dict.get(REFUSED)
    if isinstance(said, Mapping):
        kinds = {kind.code: kind for kind in (NotSerializable, TooLarge)}
        raise kinds.get(str(said.get("code")), InvalidInput)(safe_text(said.get("message")))


def check_keys(message: Any) -> None:
    """Raise ``InvalidInput`` for a key that is twice in one object of the message: the last would have won.

    That is what becomes of ``{1: "a", "1": "b"}`` where a producer writes it.
    """
    if message.content_type != "application/json" or not isinstance(message.body, bytes | str):
        return
    try:
        payload.check_keys(message.body)
    except RecursionError:
        return  # whoever reads it says so
    except ValueError as error:
        raise InvalidInput(f"the message cannot be read as it was meant: {error}", fix="keys are text") from None


def json_body(message: Any) -> bytes | str | None:
    """The JSON text of a message in Celery's second protocol; ``None`` for any other."""
    text = message.body
    if message.content_type != "application/json" or not isinstance(text, bytes | str):
        return None
    if str(message.content_encoding or "utf-8").lower() not in ("utf-8", "ascii", "us-ascii"):
        return None
    start = text.lstrip()[:1]
    return text if start in ("[", b"[") else None


def examine(
    item: Item, message: Any, request: Any, write: Callable[[], str], *, allow_private: bool
) -> tuple[float | None, Carried]:
    """Give ``item`` its input, which ``write`` makes; the time limit of the message, and what it carries of its job.

    Whatever is wrong with it is the item's error.
    """
    timeout_s, carried = None, Carried()
    try:
        check_again(request)
        item.input = write()
        check_keys(message)
        timeout_s = timeout_of(request)
    except (Rejected, TypeError) as error:
        item.input = item.input or "null"
        item.error = error if isinstance(error, Rejected) else InvalidInput(safe_text(error))
    try:
        carried = read(request.request_dict, message.properties, allow_private=allow_private)
    except InvalidInput as error:
        item.error = item.error or error
    item.tenant = carried.tenant
    try:
        check_canvas(request)
    except InvalidInput as error:
        item.error = item.error or error
    return timeout_s, carried


def adopt(
    item: Item,
    asked_version: str | None,
    request: Any,
    properties: Mapping[str, Any],
    timeout_s: float | None,
    carried: Carried,
    *,
    run: bool = False,
) -> None:
    """Give ``item`` the row that its message becomes, of a ``run`` where it calls a pipeline. Where that cannot keep it
    as it is, the item fails."""
    headers = headers_of(request)
    canvas = None
    if item.error is None:
        try:
            # As the producer wrote it: what Celery has made of dates and bytes would be written differently.
            canvas = canvas_of(headers, json_body(request.message) or body_of(request), properties, run=run)
        except Exception as error:
            item.error = InvalidInput(f"the message cannot be stored: {safe_text(error)}")
    if canvas is None:
        canvas = _refused(item, headers, request, properties, run=run)
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
        tenant=carried.tenant,
        tags=carried.tags,
        webhook=carried.webhook,
        trace=carried.trace,
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


def _refused(item: Item, headers: Mapping[str, Any], request: Any, properties: Mapping[str, Any], *, run: bool) -> str:
    """The message of an item that fails, so that it fails alike when it is started again."""
    error: Any = item.error
    try:
        args, kwargs, embed = json.loads(json_body(request.message) or "")
    except (ValueError, RecursionError):
        args, kwargs, embed = request._payload
    _leave_out(embed)
    if isinstance(error, TooLarge):
        args, kwargs = [], {}  # the limit is there to spare the database
    said = {"code": error.code, "message": safe_text(error.message)}
    body = cleansed([args, kwargs, embed])
    return canvas_of({**cleansed(headers), REFUSED: said}, body, cleansed(properties), run=run)


def cleansed(value: Any) -> Any:
    """The value with every text valid, and what is no JSON as text."""
    if isinstance(value, Mapping):
        return {safe_text(name): cleansed(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [cleansed(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else safe_text(value)
