"""The webhook event of a job's end: written in the transaction that ends it, so that neither exists without the other.

The body is the one of Standard Webhooks: ``{"type": "job.succeeded", "timestamp": …, "data": {…}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from penstock.clock import isoformat
from penstock.job import Job, JobState
from penstock.store.records import JOB_COLUMNS, job_of
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: Longest body: what Standard Webhooks recommends. What does not fit is left out and has to be fetched by the job's id.
MAX_PAYLOAD_BYTES = 20_000
#: The event of a run that waits for somebody's word.
WAITING = "run.waiting"
#: What is kept of an error's message where the whole does not fit, characters.
SHORT_MESSAGE = 500

_encode = msgspec.json.encode

_JOBS = f"SELECT {JOB_COLUMNS} FROM penstock_job WHERE id {{in ids}}"  # noqa: S608 - constants only
# Nothing more is sent to a URL whose receiver answered 410; the event is kept.
_GONE = "SELECT DISTINCT url FROM penstock_delivery WHERE state = 'gone' AND url {in urls}"
_INSERT = insert_sql(
    "penstock_delivery",
    ["id", "job_id", "url", "host", "type", "payload", "state", "created_at", "next_at", "error"],
)


def write_events(session: Session, ended: Iterable[Any], *, now: float) -> None:
    """Store an event for each of the jobs that has a webhook. ``ended`` has ``id``, ``state`` and ``webhook``."""
    ids = [row.id for row in ended if row.webhook is not None and row.state.is_terminal]
    if not ids:
        return
    jobs = [job_of(row) for row in session.all(_JOBS, {"ids": session.ids(ids)})]
    urls = {job.webhook for job in jobs if job.webhook is not None}
    gone = {row[0] for row in session.all(_GONE, {"urls": session.ids(urls)})}
    session.insert(_INSERT, [_row(job, job.webhook in gone, now) for job in jobs])


def write_waiting(
    session: Session, *, run: str, url: str, step: str, signal: str, until: float | None, value: Any, now: float
) -> None:
    """Store the event that a run waits for a signal: ``run.waiting``, with the value that it is to be decided on."""
    data: dict[str, Any] = {"id": run, "step": step, "signal": signal, "until": isoformat(until), "after": value}
    body = {"type": WAITING, "timestamp": isoformat(now), "data": data}
    payload = _encode(body)
    if len(payload) > MAX_PAYLOAD_BYTES:
        del data["after"]
        data["after_truncated"] = True
        payload = _encode(body)
    gone = bool(session.all(_GONE, {"urls": session.ids([url])}))
    session.insert(_INSERT, [_delivery(run, url, WAITING, payload.decode(), gone, now)])


def _row(job: Job, gone: bool, now: float) -> Sequence[Any]:
    return _delivery(job.id, job.webhook or "", *event(job, at=now), gone, now)


def _delivery(id: str, url: str, kind: str, payload: str, gone: bool, now: float) -> Sequence[Any]:
    state, error = ("gone", "the receiver had answered 410 before") if gone else ("pending", None)
    host = urlsplit(url).hostname or ""
    return (f"msg_{uuid4().hex}", id, url, host, kind, payload, state, now, now, error)


def event(job: Job, *, at: float) -> tuple[str, str]:
    """The type and the body (JSON text) of the event that ``job`` ended."""
    kind = f"job.{job.state.value}"
    data: dict[str, Any] = {
        "id": job.id,
        "model": job.model,
        "version": job.version,
        "lane": job.lane,
        "tenant": job.tenant,
        "status": job.state.value,
        "attempts": job.attempt,
        "tags": job.tags,
        "created_at": isoformat(job.ledger.accepted_at),
        "started_at": isoformat(job.ledger.started_at),
        "completed_at": isoformat(job.ledger.settled_at),
        "error": job.error,
    }
    if job.state is JobState.SUCCEEDED:
        data["output"] = job.output
    body = {"type": kind, "timestamp": isoformat(at), "data": data}
    payload = _encode(body)
    for shorten in (_without_output, _with_short_error, _without_tags):
        if len(payload) <= MAX_PAYLOAD_BYTES:
            break
        shorten(data)
        payload = _encode(body)
    return kind, payload.decode()


def _without_output(data: dict[str, Any]) -> None:
    if "output" in data:
        del data["output"]
        data["output_truncated"] = True


def _with_short_error(data: dict[str, Any]) -> None:
    if data["error"] is not None:
        message = str(data["error"].get("message", ""))[:SHORT_MESSAGE]
        data["error"] = {"code": data["error"].get("code"), "message": message, "truncated": True}


def _without_tags(data: dict[str, Any]) -> None:
    data["tags"], data["tags_truncated"] = {}, True
