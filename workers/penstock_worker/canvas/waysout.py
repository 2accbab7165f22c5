"""Celery's own ways out of a process: exceptions, on its main thread, that are no fault of a model's."""

from __future__ import annotations

from celery.exceptions import WorkerShutdown, WorkerTerminate

from penstock import usercode

WAYS_OUT = (WorkerShutdown, WorkerTerminate)


def is_the_models(error: BaseException) -> bool:
    """Whether an exception that came out of a user's code is that code's; else it is to be raised on."""
    return not isinstance(error, WAYS_OUT) and usercode.is_its_own(error)
