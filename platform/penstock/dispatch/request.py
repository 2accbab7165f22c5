"""The options of a request, checked: PURE, ``now`` comes in.

Every fault is a ``Rejected`` (here ``InvalidInput``, ``WebhookRefused`` for a callback's address) that says what to
write instead; nothing is stored before all of them are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from penstock.arguments import nearest, shown, storable
from penstock.errors import InvalidInput
from penstock.lane import LANES, MAX_PRIORITY, MIN_PRIORITY, Lane
from penstock.model import Model
from penstock.options import MAX_TEXT, Options
from penstock.pipelines.graph import Graph, check_bounds
from penstock.pipelines.writing.pipeline import Pipeline

#: Furthest time from now that an option may name, and longest timeout, seconds: a hundred years. Times beyond the year
#: 9999 have no date.
MAX_SPAN_S = 100 * 365.25 * 86400
#: Most tags of one job.
MAX_TAGS = 64
#: The place of an input that nobody gave.
NO_INPUT: Any = object()


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for, as typed."""

    model: str | type[Model] | Pipeline | Graph | Mapping[str, Any]
    input: Any
    options: Options
    #: The lane where ``options`` names none: the verbs differ.
    lane: Lane = Lane.INTERACTIVE
    #: Whether admission has let it pass already.
    admitted: bool = False


def asked(model: Any, input: Any, options: Options) -> Request:
    """What ``enqueue(model, input)`` asks for; raises ``TypeError`` where a model or a pipeline is given no input."""
    if input is NO_INPUT and not isinstance(model, Mapping):
        raise TypeError("there is no input: only a canvas, whose signatures have theirs, is enqueued without one")
    return Request(model, input, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Checked options, in the units that are stored."""

    lane: Lane
    tenant: str
    priority: int
    deadline_at: float | None
    timeout_s: float | None
    idempotency_key: str | None
    webhook: str | None
    tags: dict[str, str] | None
    accepted_at: float
    available_at: float
    max_parallel: int | None
    budget_s: float | None


def terms(
    *,
    now: float,
    default_lane: Lane,
    allow_private: bool = False,
    lane: str | None = None,
    tenant: str = "default",
    priority: int = 0,
    deadline: float | datetime | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
    webhook: str | None = None,
    tags: Mapping[str, str] | None = None,
    delay: float | None = None,
    max_parallel: int | None = None,
    budget: float | None = None,
    **unknown: object,
) -> Terms:
    """Check options; raises ``InvalidInput`` or ``WebhookRefused``, a misspelt name is a ``TypeError``."""
    for name in unknown:
        known = sorted(Options.__optional_keys__)
        hint = nearest(name, known, f"there are {', '.join(known)}")
        raise TypeError(f"there is no option {name!r}: {hint}")
    if tenant != "default":
        tenant = _text("tenant", tenant)
    if idempotency_key is not None:
        idempotency_key = _text("idempotency_key", idempotency_key)
    if priority != 0 or type(priority) is not int:
        _priority(priority)
    if webhook is not None:
        webhook = _webhook(webhook, allow_private)
    if max_parallel is not None or budget is not None:
        check_bounds("the run", max_parallel, budget)
    return Terms(
        lane=default_lane if lane is None else _lane(lane),
        tenant=tenant,
        priority=priority,
        deadline_at=None if deadline is None else _deadline(deadline, now),
        timeout_s=None if timeout is None else _seconds("timeout", timeout, zero=False),
        idempotency_key=idempotency_key,
        webhook=webhook,
        tags=_tags(tags) if tags else None,
        accepted_at=now,
        available_at=now if delay is None else now + _seconds("delay", delay, zero=True),
        max_parallel=max_parallel,
        budget_s=budget,
    )


def many(inputs: Any) -> Iterable[Any]:
    """The inputs of many jobs; raises ``InvalidInput`` for what is one input."""
    if isinstance(inputs, (str, bytes, bytearray, Mapping)) or not isinstance(inputs, Iterable):
        raise InvalidInput(
            f"inputs is one {type(inputs).__name__}, not many inputs",
            fix="pass a list, one input per job, or call enqueue()",
        )
    return inputs


def _lane(lane: Any) -> Lane:
    names = [str(known) for known in LANES]
    if isinstance(lane, str) and lane in names:
        return Lane(lane)
    near = get_close_matches(lane, names, n=1) if isinstance(lane, str) else []
    fix = f"did you mean lane={near[0]!r}?" if near else f"use one of {', '.join(names)}"
    raise InvalidInput(f"there is no lane {shown(lane)}", fix=fix)


def _priority(priority: Any) -> None:
    if type(priority) is not int or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidInput(
            f"priority={shown(priority)} is not a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}",
            fix=f"priority={MAX_PRIORITY} goes first, {MIN_PRIORITY} (the default) last",
        )


def _deadline(deadline: Any, now: float) -> float:
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidInput(
                f"deadline={deadline.isoformat()} has no time zone",
                fix="pass an aware datetime, for example datetime.now(UTC) + timedelta(seconds=2), or seconds from now",
            )
        deadline = deadline.timestamp() - now
    if not _is_number(deadline):
        raise InvalidInput(f"deadline={shown(deadline)} is no time", fix="pass seconds from now, or an aware datetime")
    if abs(deadline) > MAX_SPAN_S:
        raise InvalidInput(
            f"deadline={shown(deadline)} is further away than a hundred years", fix="leave it out where there is none"
        )
    # One that has passed is not refused: the job is stored and expires, as it would have a moment later.
    return now + float(deadline)


def _seconds(name: str, value: Any, *, zero: bool) -> float:
    if not _is_number(value) or value < 0 or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise InvalidInput(f"{name}={shown(value)} is not a time", fix=f"pass {name} in seconds, {least}")
    if value > MAX_SPAN_S:
        raise InvalidInput(
            f"{name}={shown(value)} is longer than a hundred years", fix=f"pass {name} in seconds, or leave it out"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise InvalidInput(f"{name}={shown(value)} is not usable", fix=f"pass 1 to {MAX_TEXT} printable characters")
    return str.__str__(value)  # of an enum, or numpy's text, the text itself


def _tags(tags: Any) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise InvalidInput(f"tags={shown(tags)} are not names and values", fix='write tags={"run": "7"}')
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"{len(tags)} tags are too many", fix=f"use at most {MAX_TAGS}")
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidInput(
                f"the tag {name!r}: {shown(value)} is not text",
                fix=f'names and values are text: tags={{"{name}": "{value}"}}',
            )
        _text("a tag's name", name)
        if len(value) > MAX_TEXT:
            raise InvalidInput(f"the value of tag {name!r} is too long", fix=f"use at most {MAX_TEXT} characters")
        if not storable(value):
            raise InvalidInput(f"the value of tag {name!r} has a NUL or half of a surrogate pair", fix="remove it")
    return {str.__str__(name): str.__str__(value) for name, value in tags.items()}


def _webhook(url: Any, allow_private: bool) -> str:
    if not isinstance(url, str):
        raise InvalidInput(f"webhook={shown(url)} is not a URL", fix="for example webhook='https://example.com/done'")
    # Imported here: few producers use callbacks, and all of them pay for imports.
    from penstock.webhooks.address import check_url

    check_url(url, allow_private)
    return str.__str__(url)
