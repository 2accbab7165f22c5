"""The form of a message: PURE functions between jobs and bytes.

A message is what kombu's Redis transport writes: a JSON object with ``body``, ``headers`` and ``properties``, whose
body is Celery's protocol 2, ``[args, kwargs, embed]``. So stock producers, workers and Flower understand ours and we
understand theirs. A *plain* job, one without callbacks, carries the header ``penstock``, and everything that a worker
needs is in it; ``decode`` reads only those fields. A *canvas* job (a member of a chain, group or chord, or one with
callbacks) carries exactly the message that Celery made, kept in SQL as ``job.canvas`` so that it can be sent again.

A plain message is at most 2 KiB: a larger input is not in it, and the worker reads it from SQL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from penstock.job import Job, NewJob
from penstock.jsontext import UNREADABLE
from penstock.lane import PIPELINES, queue_name, task_name

#: Version of the ``penstock`` header. A reader hands messages of another version to Celery's own path.
HEADER_VERSION = 1

#: An input whose body would be longer than this (bytes, escaped) stays in SQL.
MAX_BODY_BYTES = 1200
#: The same for a step of a run, which is shown with its run.
MAX_STEP_BODY_BYTES = 900

#: Length of the input's beginning that monitors such as Flower show, characters.
REPR_CHARS = 64

_EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_HEAD = "[["
_TAIL = '],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
#: The first is this delivery's; the second speaks of a body that we have unpacked.
_TRANSIENT_HEADERS = ("redelivered", "compression")
_TRANSIENT = ("delivery_tag", "delivery_info", "body_encoding")

#: How the kept message of Celery's call of a pipeline begins.
_RUN = '{"run":true,'

_json = msgspec.json.encode


class Envelope(msgspec.Struct, gc=False):
    """A plain job's message, read. ``tag`` and ``charged`` are set by whoever claimed it.

    ``version`` is the one asked for, or that of earlier releases' choice; SQL decides. ``input`` is JSON text, or
    ``None`` where it must be read from SQL. ``at`` is since when the job could run (Unix seconds): its target counts
    from there. ``step``: it is a step of a run, whose input is here all the same. ``start_by`` is when that should
    begin: it orders, and expires nothing.
    """

    id: str
    model: str
    version: str
    lane: str
    tenant: str
    priority: int
    input: str | None
    timeout_s: float | None
    deadline_at: float | None
    reply_to: str | None
    trace: str | None
    at: float | None = None
    step: bool = False
    tag: int = 0
    charged: bool = False
    start_by: float | None = None


def queue_of(job: NewJob | Job, namespace: str) -> str:
    """The queue of a job's message. Celery's calls of pipelines have one of their own, whatever has become of them."""
    if job.canvas is not None and job.canvas.startswith(_RUN):
        return queue_name(namespace, PIPELINES, job.lane)
    return queue_name(namespace, job.model, job.lane, job.asked_version)


def encode(job: NewJob | Job, namespace: str) -> bytes:
    """The message of a job, as it stands in the queue's list. Canvas jobs get their Celery message back."""
    given: str | None = None
    if isinstance(job, NewJob):
        text, attempt, given = job.input, 0, job.given
    else:
        text, attempt = _json(job.input).decode(), job.attempt
    if job.canvas is not None:
        return encode_canvas(job.canvas, input=text, queue=queue_of(job, namespace), priority=job.priority)
    key = (namespace, job.model, job.asked_version, job.lane, job.tenant, job.priority, job.timeout_s, job.reply_to)
    template = _templates.get(key)
    if template is None:
        if len(_templates) >= _TEMPLATES_MAX:
            _templates.clear()
        template = _templates[key] = _template(*key)
    id = job.id.encode()
    if given is not None:
        text = given
    body = _json(_HEAD + text + _TAIL)
    inline = b"true" if job.run_id is None else b'true,"step":true'
    # What most steps of runs are given, SQL puts together when they are claimed.
    most = MAX_BODY_BYTES if job.run_id is None else 0 if given is None else MAX_STEP_BODY_BYTES
    if len(body) > most:
        body = _json(_HEAD + '{"$penstock":{"job":"' + job.id + '"}}' + _TAIL)
        inline = b"false"
    shown = (
        f"{job.path} of run {job.run_id}"
        if job.run_id
        else text
        if len(text) <= REPR_CHARS
        else text[:REPR_CHARS] + "..."
    )
    deadline = expires = b"null"
    if job.deadline_at is not None:
        deadline = _json(job.deadline_at)
        expires = _json(_date(job.deadline_at))
    if job.start_by is not None:
        deadline += b',"start_by":%.4f' % job.start_by
    t = template
    return b"".join(
        (
            b'{"body":', body, t[0], id, t[1], expires, t[2], id, t[3], _json("(" + shown + ",)"), t[4],
            b"%d" % attempt, b',"inline":', inline, b',"at":%.4f,"deadline":' % job.available_at, deadline,
            b',"trace":', b"null" if job.trace is None else _json(job.trace),
            t[5], id, t[6], id, b'"}}',
        )
    )  # fmt: skip


def _date(at: float) -> str | None:
    """Only stock tools read it; a time without a date (before the year 1, after 9999) is none to them."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


_Key = tuple[str, str, str | None, str, str, int, float | None, str | None]
_templates: dict[_Key, tuple[bytes, ...]] = {}
_TEMPLATES_MAX = 1024


def _template(
    namespace: str,
    model: str,
    version: str | None,
    lane: str,
    tenant: str,
    priority: int,
    timeout_s: float | None,
    reply_to: str | None,
) -> tuple[bytes, ...]:
    """The constant parts of a message, between its id, expiry, id, repr, attempt .. trace, id and id."""
    header = _json(
        {
            "v": HEADER_VERSION,
            "plain": True,
            "model": model,
            "version": version or "",
            "lane": lane,
            "tenant": tenant,
            "timeout": timeout_s,
            "reply_to": reply_to,
        }
    )[:-1]
    return (
        b',"content-encoding":"utf-8","content-type":"application/json","headers":{"lang":"py","task":'
        + _json(task_name(namespace, model))
        + b',"id":"',
        b'","shadow":null,"eta":null,"expires":',
        b',"group":null,"group_index":null,"retries":0,"timelimit":[' + _json(timeout_s) + b',null],"root_id":"',
        b'","parent_id":null,"argsrepr":',
        b',"kwargsrepr":"{}","origin":"penstock","ignore_result":true,"replaced_task_nesting":0,'
        b'"stamped_headers":null,"stamps":{},"penstock":' + header + b',"attempt":',
        b'}},"properties":{"correlation_id":"',
        b'","reply_to":"","delivery_mode":2,"delivery_info":{"exchange":"","routing_key":'
        + _json(queue_name(namespace, model, lane, version))
        + b'},"priority":'
        + _json(priority)
        + b',"body_encoding":"utf-8","delivery_tag":"',
    )


# Reading ------------------------------------------------------------------------------------------------------


class _Header(msgspec.Struct, gc=False):
    v: int = 0
    plain: bool = False
    model: str = ""
    version: str = ""
    lane: str = ""
    tenant: str = ""
    timeout: float | None = None
    reply_to: str | None = None
    inline: bool = True
    step: bool = False
    at: float | None = None
    deadline: float | None = None
    trace: str | None = None
    start_by: float | None = None


class _Headers(msgspec.Struct, gc=False):
    id: str = ""
    penstock: _Header | None = None


class _Properties(msgspec.Struct, gc=False):
    body_encoding: str | None = None
    priority: int | None = 0


class _Wire(msgspec.Struct, gc=False):
    headers: _Headers
    properties: _Properties
    body: str


_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_body = msgspec.json.Decoder(tuple[list[msgspec.Raw], msgspec.Raw, msgspec.Raw]).decode


def decode(raw: bytes) -> Envelope | None:
    """Read a plain job's message; ``None`` for any other, readable or not: that is for kombu to deliver."""
    try:
        wire = _decode_wire(raw)
    except UNREADABLE:
        return None
    headers, properties, body = wire.headers, wire.properties, wire.body
    header = headers.penstock
    if header is None or not header.plain or header.v != HEADER_VERSION or not headers.id or "\0" in headers.id:
        return None
    if properties.body_encoding != "utf-8":
        return None
    if not header.inline:
        text = None
    elif body.startswith(_HEAD) and body.endswith(_TAIL):
        text = body[2 : -len(_TAIL)]
    else:  # another writer's spacing
        try:
            args, _, _ = _decode_body(body)
            (value,) = args
        except (ValueError, *UNREADABLE):
            return None
        text = bytes(value).decode()
    return Envelope(
        headers.id,
        header.model,
        header.version,
        header.lane,
        header.tenant,
        properties.priority or 0,
        text,
        header.timeout,
        header.deadline,
        header.reply_to,
        header.trace,
        header.at,
        header.step,
        start_by=header.start_by,
    )


class _IdOnly(msgspec.Struct, gc=False):
    id: str = ""


class _WireId(msgspec.Struct, gc=False):
    headers: _IdOnly


_decode_id = msgspec.json.Decoder(_WireId).decode


#: An id in the text of a message. In the body, which is text itself, the quotes are escaped.
_ID = re.compile(rb'"id"\s*:\s*"([ !#-\[\]-~]{1,255})"')


def id_of(raw: bytes) -> str | None:
    """The job id (Celery's task id) of any message; ``None`` when it has none.

    Of a message that is no JSON, or nested too deeply to be read, the id that its text shows.
    """
    try:
        return _decode_id(raw).headers.id or None
    except UNREADABLE:
        found = _ID.search(raw)
        return found[1].decode() if found is not None else None


# Canvas -------------------------------------------------------------------------------------------------------


def is_canvas(headers: Mapping[str, Any], embed: Mapping[str, Any] | None) -> bool:
    """Whether Celery has something to do after this task: callbacks, a chain, a chord or a group."""
    if embed and any(embed.get(name) for name in ("callbacks", "errbacks", "chain", "chord")):
        return True
    return bool(headers.get("group"))


def canvas_of(
    headers: Mapping[str, Any],
    body: bytes | str | Sequence[Any],
    properties: Mapping[str, Any],
    *,
    run: bool = False,
) -> str:
    """JSON text from which ``encode_canvas`` makes the message again.

    ``body`` is ``[args, kwargs, embed]``, best as the JSON text of the message, since decoding it through Celery
    would turn marked values (dates, UUIDs) into objects that are written differently. A single positional argument
    is the job's input and is not kept twice; of a ``run``, a call of a pipeline, whose inputs have names, it is kept.
    """
    parts: Sequence[Any] = msgspec.json.decode(body) if isinstance(body, bytes | str) else body
    args, kwargs, embed = parts
    kept: dict[str, Any] = {"run": True} if run else {}
    kept |= {
        "headers": {name: value for name, value in headers.items() if name not in _TRANSIENT_HEADERS},
        "properties": {name: value for name, value in properties.items() if name not in _TRANSIENT},
        "embed": embed,
    }
    if run or len(args) != 1 or kwargs:
        kept |= {"args": args, "kwargs": kwargs}
    return _json(kept).decode()


def open_canvas(canvas: str, input: str) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """``(headers, [args, kwargs, embed], properties)`` of a canvas job, as Celery made them.

    ``input`` is the job's input as JSON text.
    """
    kept = msgspec.json.decode(canvas)
    args = kept["args"] if "args" in kept else [msgspec.json.decode(input)]
    headers = {name: value for name, value in kept["headers"].items() if name not in _TRANSIENT_HEADERS}
    return headers, [args, kept.get("kwargs", {}), kept["embed"] or dict(_EMBED)], kept["properties"]


def encode_canvas(canvas: str, *, input: str, queue: str, priority: int = 0) -> bytes:
    """The message of a canvas job, to be sent (again) to ``queue``."""
    headers, body, properties = open_canvas(canvas, input)
    properties |= {
        "delivery_mode": properties.get("delivery_mode", 2),
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": priority,
        "body_encoding": "utf-8",
        "delivery_tag": str(headers.get("id", "")),
    }
    return _json(
        {
            "body": _json(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
