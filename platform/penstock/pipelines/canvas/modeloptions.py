"""What the signatures of a canvas say of their jobs, and what a run of it is thus told. PURE but for ``now``, which
comes in.

A run has one tenant, one lane, one priority, one callback, and its tags: those of its first model. A model that says
nothing follows; one that says something else is refused, unless whoever submits the run says it. Nothing is dropped
silently but what belongs to messages, which a run has none of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock.arguments import shown
from penstock.errors import InvalidInput
from penstock.lane import LANES, PIPELINES, Lane, queue_name, version_of
from penstock.options import CARRIED, CARRIER
from penstock.pipelines.canvas.options import REFUSED, refuse, refuse_unknown

#: Options that are read here or by ``members``.
_READ = frozenset(("queue", "priority", "countdown", "eta", "expires", "link", CARRIER))
_LIMIT = ("has a time limit of its own, which steps of a run have not", "set timeout_s of the model")
_ROUTE = ("has a route of its own", "leave it out: jobs of models and runs of pipelines go to their own queues")
_REFUSED = {
    **REFUSED,
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "exchange": _ROUTE,
    "routing_key": _ROUTE,
}

#: What is said in Celery's words, and the option that it is in ours.
_TIMES = {"start": "delay", "expires": "deadline"}
_COMMON = ("lane", "priority", *CARRIED)


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one model's call; ``entry`` ones begin with the run."""

    step: str
    entry: bool
    version: str | None
    values: Mapping[str, Any]


def said_of(
    step: str, model: str, options: Mapping[str, Any], *, namespace: str, entry: bool, pipeline: bool = False
) -> Said:
    """The options of a signature of a model, or a ``pipeline``; raises ``InvalidInput`` for those that a run cannot
    keep, by name.
    """
    values = {name: value for name, value in options.items() if value is not None and value != []}
    refuse(model, values, _REFUSED)
    refuse_unknown(model, values, _READ)
    lane, version = _route(values.get("queue"), model, namespace, pipeline=pipeline)
    found: dict[str, Any] = {"lane": lane, "priority": values.get("priority"), "expires": values.get("expires")}
    found["start"] = values.get("countdown", values.get("eta"))
    carried = values.get(CARRIER) or (values.get("headers") or {}).get(CARRIER) or {}
    found |= {name: carried.get(name) for name in CARRIED} if isinstance(carried, Mapping) else {}
    return Said(step, entry, version, {name: value for name, value in found.items() if value is not None})


def _route(queue: Any, model: str, namespace: str, *, pipeline: bool) -> tuple[Lane | None, str | None]:
    """Lane and version that the queue of a model stands for; pipelines share one, and have no versions."""
    name = getattr(queue, "name", queue)
    if name is None:
        return None, None
    for lane in LANES if isinstance(name, str) else ():
        version = None if pipeline else version_of(name, namespace, model)
        if name == queue_name(namespace, PIPELINES if pipeline else model, lane, version):
            return lane, version
    raise InvalidInput(f"{model} is sent to {shown(name)}, which is no queue of it", fix=_ROUTE[1])


def options_of(said: Sequence[Said], given: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Options of ``Client.enqueue`` for the run: ``given`` ones, and what its first model says besides.

    Raises ``InvalidInput`` where models disagree about what is not given.
    """
    if not said:
        return dict(given)
    found: dict[str, Any] = {}
    for name in (*_COMMON, *_TIMES):
        option = _TIMES.get(name, name)
        if option in given:
            continue
        _check(name, option, said)
        if name in said[0].values:
            found[option] = said[0].values[name]
    if "delay" in found:
        found["delay"] = _delay(found["delay"], now)
    if isinstance(found.get("deadline"), str):
        found["deadline"] = _moment("deadline", found["deadline"])
    return {**found, **given}


def _check(name: str, option: str, said: Sequence[Said]) -> None:
    first = said[0].values.get(name)
    for other in said[1:]:
        value = other.values.get(name)
        if name in _TIMES:  # they count from when a task is sent: what begins with the run is sent with it
            fine = value == (first if other.entry else None)
        else:  # `.s()` says "interactive" where nothing was said
            fine = value in (None, first) or (name == "lane" and value == Lane.INTERACTIVE)
        if not fine:
            one, two = (shown(each) if each is not None else "nothing" for each in (value, first))
            raise InvalidInput(
                f"step {other.step!r} says {option}={one}, and {said[0].step!r} says {two}: a run has one {option}",
                fix=f"say it of the first model, or of the whole: enqueue(canvas, {option}=…)",
            )


def _delay(value: Any, now: float) -> Any:
    """Seconds until then; numbers are that already."""
    moment = _moment("eta", value) if isinstance(value, str) else value
    return max(0.0, moment.timestamp() - now) if isinstance(moment, datetime) else moment


def _moment(name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name}={shown(text)} is no time", fix="pass seconds, or an aware datetime") from None
