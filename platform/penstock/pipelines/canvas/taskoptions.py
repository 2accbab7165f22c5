"""What the signature of a plain Celery task says of its message, as a step's ``Task``. PURE.

What the program's app says besides (its route, the options of the task's own) comes in. Nothing is dropped in silence
but what belongs to the way of a message, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from penstock.arguments import shown
from penstock.errors import InvalidInput
from penstock.options import CARRIER
from penstock.payload import constant
from penstock.pipelines.canvas.options import REFUSED, refuse, refuse_unknown
from penstock.pipelines.canvas.signature import Signature
from penstock.pipelines.task import Task, check_task

#: Asks the program for the options with which it would send a signature: ``queue`` and others of a message.
Route = Callable[[Signature, Mapping[str, Any]], Mapping[str, Any]]

#: What a step can be told in the option ``penstock`` of its signature.
CARRIED_BY_TASKS = ("timeout", "resend")

_READ = frozenset((
    "queue", "priority", "countdown", "eta", "expires", "time_limit", "soft_time_limit", "ignore_result", "headers",
    "serializer", "link", CARRIER,
))  # fmt: skip
_ROUTE = ("is sent through an exchange", "name its queue: task.s(…).set(queue=…); runs send to queues alone")
_REFUSED = {**REFUSED, "exchange": _ROUTE, "routing_key": _ROUTE, "exchange_type": _ROUTE}


def task_of(step: str, signature: Signature, options: Mapping[str, Any], route: Route, namespace: str) -> Task:
    """The task that a signature calls, with ``options`` in all; raises ``InvalidInput`` for what a run cannot keep."""
    name = signature.task
    said = {
        key: value for key, value in options.items() if value is not None and not (type(value) is list and not value)
    }
    # The app's last word is the route: it sees what the signature says of it.
    found = dict(route(signature, said))
    refuse(name, {**found, **said}, _REFUSED)
    refuse_unknown(name, said, _READ)
    merged = {key: value for key, value in {**found, **said}.items() if value is not None}
    queue = str(found["queue"])
    if queue.startswith((f"{namespace}.", f"{namespace}:", "_kombu.")):
        raise InvalidInput(
            f"{name} is sent to {queue!r:.80}, which is penstock's own", fix="leave the queue out, or name another"
        )
    if merged.get("serializer", "json") != "json":
        raise InvalidInput(f"{name} is sent as {shown(merged['serializer'])}", fix='runs are JSON: serializer="json"')
    try:
        task = Task(
            name=name,
            queue=queue,
            priority=_whole(name, "priority", merged.get("priority", 0)),
            countdown=_seconds(name, "countdown", merged.get("countdown")) or 0.0,
            eta=None if "countdown" in merged else _moment(name, "eta", merged.get("eta")),
            time_limit=_seconds(name, "time_limit", merged.get("time_limit")),
            soft_time_limit=_seconds(name, "soft_time_limit", merged.get("soft_time_limit")),
            ignore_result=bool(merged.get("ignore_result", False)),
            headers=constant({key: value for key, value in (merged.get("headers") or {}).items() if key != CARRIER}),
            resend=carried(name, merged).get("resend", False),
            **_expiry(name, merged.get("expires")),
        )
    except (TypeError, AttributeError):
        raise InvalidInput(f"{name} has headers={shown(merged.get('headers'))}", fix="give an object") from None
    check_task(step, task)
    return task


def carried(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``set(penstock={…})`` says of a plain task: ``timeout``, seconds, and ``resend``."""
    found = options.get(CARRIER) or {}
    if not isinstance(found, Mapping) or set(found) - set(CARRIED_BY_TASKS):
        raise InvalidInput(
            f"{name} has penstock={shown(found)}",
            fix='a plain task can be told {"timeout": 60, "resend": True}; what is the run\'s, say of enqueue(…)',
        )
    timeout, resend = found.get("timeout"), found.get("resend", False)
    if timeout is not None and not (type(timeout) in (int, float) and 0 < timeout < math.inf):
        raise InvalidInput(f"{name} has timeout={shown(timeout)}", fix="give seconds, more than 0")
    if not isinstance(resend, bool):
        raise InvalidInput(f"{name} has resend={shown(resend)}", fix="give True or False")
    return dict(found)


def _expiry(name: str, value: Any) -> dict[str, float | None]:
    if isinstance(value, datetime | str):
        return {"expires_at": _moment(name, "expires", value)}
    return {"expires": _seconds(name, "expires", value)}


def _seconds(name: str, option: str, value: Any) -> float | None:
    if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
        raise InvalidInput(f"{name} has {option}={shown(value)}", fix="give seconds, 0 or more")
    return None if value is None else float(value)


def _whole(name: str, option: str, value: Any) -> int:
    if type(value) is not int:
        raise InvalidInput(f"{name} has {option}={shown(value)}", fix="give a whole number")
    return value


def _moment(name: str, option: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        at = None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidInput(f"{name} has {option}={shown(value)}", fix="pass seconds, or an aware datetime")
    return at.timestamp()
