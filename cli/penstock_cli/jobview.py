"""A job as the command line prints it."""

from __future__ import annotations

from typing import Any

from penstock.clock import isoformat
from penstock.job import Job
from penstock.lane import full_name
from penstock_cli.layout import age


def job_dict(job: Job) -> dict[str, Any]:
    """The job's JSON form; field names as hosted inference services use them."""
    ledger = job.ledger
    return {
        "id": job.id,
        "model": job.model,
        "version": job.version or None,
        "asked_version": job.asked_version,
        "status": job.status,
        "input": job.input,
        "output": job.output,
        "error": job.error,
        "lane": job.lane,
        "tenant": job.tenant,
        "priority": job.priority,
        "attempts": job.attempt,
        "created_at": isoformat(ledger.accepted_at),
        "available_at": isoformat(job.available_at),
        "started_at": isoformat(ledger.started_at),
        "completed_at": isoformat(ledger.settled_at),
        "deadline_at": isoformat(job.deadline_at),
        "timeout_s": job.timeout_s,
        "queue_time": _between(ledger.accepted_at, ledger.started_at),
        "metrics": {
            "predict_time": ledger.compute_s,
            "total_time": _between(ledger.accepted_at, ledger.settled_at),
            "batch_wait_s": ledger.batch_wait_s,
            "load_s": ledger.load_s,
            "compute_s": ledger.compute_s,
            "transfer_s": ledger.transfer_s,
        },
        "batch_size": job.batch_size,
        "batch_reason": job.batch_reason,
        "worker": job.worker,
        "idempotency_key": job.idempotency_key,
        "webhook": job.webhook,
        "tags": dict(job.tags),
        "trace": job.trace,
        "run": job.run_id,
        "step": job.path,
    }


def job_pairs(job: Job) -> list[tuple[str, Any]]:
    """The same for a person: what matters, in the order in which it is looked for."""
    from penstock_cli.output import dumps

    ledger = job.ledger
    retries = [
        f"{n} {what}"
        for n, what in (
            (job.failures, "failures"),
            (job.losses, "losses"),
            (job.ooms, "ooms"),
            (job.suspicions, "suspicions"),
            (job.kills, "kills"),
        )
        if n
    ]
    return [
        ("id", job.id),
        ("status", job.status),
        ("step", f"{job.path} of run {job.run_id}" if job.run_id else None),
        (
            "model" if job.graph is None else "pipeline",
            f"{full_name(job.model, job.asked_version)}{f' (version {job.version})' if job.version else ''}" or None,
        ),
        ("output", None if job.output is None else short(dumps(job.output), 400)),
        ("error", _error(job)),
        ("input", short(dumps(job.input), 200)),
        ("lane", job.lane if not job.priority else f"{job.lane}, priority {job.priority}"),
        ("tenant", job.tenant if job.tenant != "default" else None),
        ("attempts", f"{job.attempt} ({', '.join(retries)})" if retries else job.attempt or None),
        ("created", isoformat(ledger.accepted_at)),
        ("deadline", isoformat(job.deadline_at)),
        ("waited", seconds(_between(ledger.accepted_at, ledger.started_at))),
        ("computed", seconds(ledger.compute_s)),
        ("total", seconds(_between(ledger.accepted_at, ledger.settled_at))),
        ("batch", f"{counted(job.batch_size, 'job')} ({job.batch_reason})" if job.batch_size else None),
        ("worker", job.worker),
        ("webhook", job.webhook),
        ("tags", ", ".join(f"{name}={value}" for name, value in job.tags.items())),
    ]


def step_row(job: Job, *, id: str | None = None, now: float | None = None) -> list[Any]:
    """One line of a list of a run's steps."""
    first, model, _, *rest = job_row(job, id=id, now=now)
    return [first, job.path, model, *rest]


def job_row(job: Job, *, id: str | None = None, now: float | None = None) -> list[Any]:
    """One line of a list; for a person at ``now`` with ages."""
    at = job.ledger.accepted_at
    return [
        id or job.id,
        job.model,
        job.lane,
        job.status,
        isoformat(at) if now is None else age(now - at),
        seconds(_between(job.ledger.accepted_at, job.ledger.settled_at)),
        job.attempt if job.graph is None else None,  # of a run, its steps have attempts
    ]


ROW_HEADER = ("id", "model", "lane", "status", "created", "total", "attempts")
#: On a terminal, and which of them it can do without, the first one first.
AGES_HEADER = ("id", "model", "lane", "status", "age", "total", "attempts")
ROW_DROP = ("attempts", "lane", "total", "model")
#: The same of a run's steps, which are all in its lane.
STEP_HEADER = ("id", "step", "model", *ROW_HEADER[3:])
STEP_AGES_HEADER = ("id", "step", "model", *AGES_HEADER[3:])


def seconds(value: float | None) -> str | None:
    """A duration for a person."""
    if value is None:
        return None
    if value < 1:
        return f"{value * 1000:.1f} ms"
    if value < 120:
        return f"{value:.2f} s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m {rest:02}s" if hours else f"{minutes}m {rest:02}s"


def counted(count: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}{'es' if what.endswith('ch') else 's'}"


def short(text: str, width: int) -> str:
    """At most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _error(job: Job) -> str | None:
    if not job.error:
        return None
    return f"{job.error.get('message', '')} [{job.error.get('code', 'error')}]"


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
