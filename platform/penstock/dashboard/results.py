"""Celery's results as the dashboard reads them: of a job from SQL, of everything else from the result backend.

A job of a client has no result in Celery's backend, and a job that somebody cancelled while it waited has none yet.
"""

# The published type stubs know little of what is inside Celery's backends.
# mypy: disable-error-code="misc, attr-defined"

from __future__ import annotations

import time
from typing import Any

from celery import states
from celery.exceptions import TimeoutError as CeleryTimeout

from penstock.errors import PenstockError
from penstock.job import Job, JobState
from penstock.store import Store

#: How often a result that is waited for is looked for, seconds.
EVERY_S = 0.2

_STATES = {
    JobState.ACCEPTED: states.PENDING,
    JobState.QUEUED: states.PENDING,
    JobState.RUNNING: states.STARTED,
    JobState.SUCCEEDED: states.SUCCESS,
    JobState.FAILED: states.FAILURE,
    JobState.CANCELLED: states.REVOKED,
    JobState.EXPIRED: states.REVOKED,
}


def install(capp: Any, store: Store) -> None:
    """Have ``AsyncResult`` of this app, which becomes the process's, read jobs from SQL."""
    stock: Any = type(capp.backend)

    class Results(stock):
        def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
            meta = meta_of(store, task_id)
            return meta if meta is not None else super()._get_task_meta_for(task_id)

        def add_pending_result(self, result: Any, *args: Any, **kwargs: Any) -> Any:
            """Nothing is subscribed to: ``wait_for_pending`` looks."""
            return result

        def remove_pending_result(self, result: Any) -> Any:
            return result

        def wait_for_pending(self, result: Any, timeout: float | None = None, **options: Any) -> Any:
            until = None if timeout is None else time.monotonic() + timeout
            while True:
                meta = self._get_task_meta_for(result.id)
                if meta["status"] in states.READY_STATES:
                    return result.maybe_throw(
                        propagate=options.get("propagate", True), callback=options.get("callback")
                    )
                if until is not None and time.monotonic() >= until:
                    raise CeleryTimeout("The operation timed out.")
                time.sleep(EVERY_S)

    make = capp._get_backend

    def ours() -> Any:
        backend = make()
        backend.__class__ = Results
        return backend

    capp._get_backend = ours  # what `capp.backend` calls, once per thread
    capp._local.__dict__.pop("backend", None)
    capp._backend_cache = None
    capp.set_current()
    capp.set_default()


def meta_of(store: Store, id: str) -> dict[str, Any] | None:
    """A job as Celery's backends store results; ``None`` for what is no job, or while the database is away."""
    try:
        job = store.get_many([id]).get(id)
    except PenstockError:
        return None
    if job is None:
        return None
    return {"task_id": id, "status": _STATES[job.state], "result": _result(job), "traceback": None, "children": []}


def _result(job: Job) -> Any:
    if job.state is JobState.SUCCEEDED:
        return job.output
    if job.state in (JobState.CANCELLED, JobState.EXPIRED):
        word = "revoked" if job.state is JobState.CANCELLED else "expired"
        return {"exc_type": "TaskRevokedError", "exc_message": [word], "exc_module": "celery.exceptions"}
    if job.state is JobState.FAILED:
        error = job.error or {}
        kind, message = str(error.get("type") or "ModelRaised"), str(error.get("message") or "failed")
        return {"exc_type": kind, "exc_message": [message], "exc_module": None}
    return None
