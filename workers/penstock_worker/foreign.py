"""What programs without penstock put into their messages, checked before anything depends on it: PURE.

A fault that leaves the message's id readable fails its job as ``invalid_input``, so that its sender hears of it. The
row then holds the message with what cannot be stored written out (``\\udc80`` for half of a surrogate pair).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from penstock import payload
from penstock.errors import InvalidInput, NotSerializable, TooLarge, safe_text
from penstock.job import NewJob
from penstock.lane import MAX_PRIORITY
from penstock.transport.message import canvas_of
from penstock_worker.item import Item

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
    """The hard time limit of a message, seconds; raises ``InvalidInput``."""
    limits = request.time_limits
    try:
        limit = limits[0] if limits else None
        timeout_s = float(limit) if limit else None
    except (TypeError, ValueError, LookupError, OverflowError):
        timeout_s = math.nan
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise InvalidInput(f"the time limit {limits!r:.300} is not a time", fix="pass seconds, more than 0")
    return timeout_s


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


def adopt(item: Item, version: str, request: Any, properties: Mapping[str, Any], timeout_s: float | None) -> None:
    """Give ``item`` the row that its message becomes. Where that cannot keep it as it is, the item fails."""
    headers = {name: value for name, value in request.message.headers.items() if name not in ("eta", "expires")}
    canvas = None
    if item.error is None:
        try:
            # As the producer wrote it: what Celery has made of dates and bytes would be written differently.
            canvas = canvas_of(headers, json_body(request.message) or request._payload, properties)
        except Exception as error:
            item.error = InvalidInput(f"the message cannot be stored: {safe_text(error)}")
    if canvas is None:
        canvas = _refused(item, headers, request, properties)
    if item.error is not None:
        # It fails at once: nothing is gained by waiting for its time.
        item.not_before = None
    item.row = NewJob(
        id=item.id,
        model=item.model,
        version=version,
        input=item.input if item.input is not None else "null",
        lane=item.lane,
        accepted_at=item.claimed_at,
        available_at=item.not_before or item.claimed_at,
        priority=priority_of(properties),
        deadline_at=item.deadline_at,
        timeout_s=timeout_s,
        canvas=canvas,
    )


def _refused(item: Item, headers: Mapping[str, Any], request: Any, properties: Mapping[str, Any]) -> str:
    """The message of an item that fails, so that it fails alike when it is started again."""
    error: Any = item.error
    try:
        args, kwargs, embed = json.loads(json_body(request.message) or "")
    except (ValueError, RecursionError):
        args, kwargs, embed = request._payload
    if isinstance(error, TooLarge):
        args, kwargs = [], {}  # the limit is there to spare the database
    said = {"code": error.code, "message": safe_text(error.message)}
    return canvas_of({**cleansed(headers), REFUSED: said}, cleansed([args, kwargs, embed]), cleansed(properties))


def cleansed(value: Any) -> Any:
    """The value with every text valid, and what is no JSON as text."""
    if isinstance(value, Mapping):
        return {safe_text(name): cleansed(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [cleansed(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else safe_text(value)
