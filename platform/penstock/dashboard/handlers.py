"""Flower's API where a model or a job is meant: applied through the model's queue, cancelled in SQL, or refused.

They stand before Flower's own handlers, and leave to them whatever is no model's.
"""

# Flower has no types.
# mypy: disable-error-code="misc, import-untyped, untyped-decorator"

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Task
from flower.api import control, tasks
from flower.views.workers import WorkersView
from tornado.web import HTTPError, authenticated, url

from penstock import clock
from penstock.errors import JobNotFound, PenstockError
from penstock.lane import LANES, Lane, queue_name
from penstock.registry import unknown_model
from penstock.store import Store

#: What ends an attempt, in Flower's counts of events.
_ENDS = ("task-succeeded", "task-failed", "task-revoked", "task-retried", "task-rejected")


def handlers(models: Models) -> list[Any]:
    """What is to stand before Flower's handlers."""
    given = {"models": models}
    return [
        url(r"/api/task/apply/(.+)", _Apply, given),
        url(r"/api/task/async-apply/(.+)", _AsyncApply, given),
        url(r"/api/task/send-task/(.+)", _Send, given),
        url(r"/api/task/revoke/(.+)", _Revoke, given),
        url(r"/api/task/abort/(.+)", _Abort, given),
        url(r"/api/task/rate-limit/(.+)", _RateLimit, given),
        url(r"/api/task/timeout/(.+)", _Timeout, given),
        url(r"/workers", _Workers),
        url(r"/", _Workers),
    ]


class Models:
    """The models of this deployment, as workers announced them."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.store = store
        self.namespace = namespace

    def known(self) -> list[str]:
        """Their names; none while the database is away."""
        try:
            return sorted(self.store.models())
        except PenstockError:
            return []

    def queue(self, task: str, options: dict[str, Any]) -> str:
        """Where a task goes. Raises what Flower answers with, where nobody would ever take it."""
        lane = options.pop("lane", Lane.INTERACTIVE)
        prefix = f"{self.namespace}."
        if not task.startswith(prefix):
            if "queue" in options:
                return str(options["queue"])
            raise HTTPError(400, f'{task!r} is no model, and nobody consumes for it here: name its "queue"')
        name, known = task.removeprefix(prefix), self.known()
        if name not in known:
            error = unknown_model(name, known)
            raise HTTPError(404, f"{error.message}; {error.fix}")
        if lane not in LANES:
            raise HTTPError(400, f"{lane!r} is no lane: use one of {', '.join(LANES)}")
        if options.get("queue", queue_name(self.namespace, name, lane)) not in {
            queue_name(self.namespace, name, each) for each in LANES
        }:
            raise HTTPError(400, f"{task} is a model, and has queues of its own: leave out the queue, or name a lane")
        if options.get("soft_time_limit") or options.get("rate_limit"):
            raise HTTPError(400, f"{task} is a model: it has a time_limit, no soft one and no rate limit")
        return str(options.get("queue") or queue_name(self.namespace, name, lane))

    def register(self, capp: Any, task: str) -> None:
        """Make the model's task known to this app, to send it; it never runs here."""
        if task.startswith(f"{self.namespace}.") and task not in capp.tasks:
            capp.register_task(type("Sent", (Task,), {"name": task, "run": _nowhere})())

    def cancel(self, id: str) -> bool:
        """Cancel a job; whether it is one."""
        try:
            self.store.cancel(id, now=clock.now())
        except JobNotFound:
            return False
        return True


def _nowhere(self: Any, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("models run in workers")


class _Knows:
    """A handler that knows the models."""

    path_args: list[str]
    capp: Any

    def initialize(self, models: Models) -> None:
        self._models = models


class _Ours(_Knows):
    """Routes what is applied."""

    def get_task_args(self) -> tuple[Any, Any, dict[str, Any]]:
        args, kwargs, options = super().get_task_args()
        if not isinstance(kwargs, Mapping):
            raise HTTPError(400, "kwargs must be an object")
        name = str(self.path_args[0])
        options["queue"] = self._models.queue(name, options)
        self._models.register(self.capp, name)
        return args, kwargs, options


class _Apply(_Ours, tasks.TaskApply):
    pass


class _AsyncApply(_Ours, tasks.TaskAsyncApply):
    pass


class _Send(_Ours, tasks.TaskSend):
    pass


class _PassesOn(_Knows):
    """Asks the workers, of a model's task, too: they say why not."""

    def prepare(self) -> None:
        super().prepare()
        task = str(self.path_args[0])
        if task.removeprefix(f"{self._models.namespace}.") in self._models.known():
            self._models.register(self.capp, task)


class _RateLimit(_PassesOn, control.TaskRateLimit):
    pass


class _Timeout(_PassesOn, control.TaskTimout):
    pass


class _Revoke(_Ours, control.TaskRevoke):
    """A job is cancelled in SQL first: a worker may not hear of it, and a running one is to be stopped anyway."""

    @authenticated
    async def post(self, taskid: str) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")
        try:
            await self.run_blocking("task.cancel", taskid, self._models.cancel, taskid)
        except PenstockError as error:
            raise HTTPError(503, error.message) from error
        await super().post(taskid)


class _Abort(_Revoke):
    """Flower's abort writes a word into the result backend that a task has to look for; a model does not."""

    @authenticated
    async def post(self, taskid: str) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")
        job = await self.run_blocking("task.look", taskid, self._models.store.get_many, [taskid])
        if job:
            await super().post(taskid)
        else:
            await tasks.TaskAbort.post(self, taskid)

    backend_configured = staticmethod(tasks.BaseTaskHandler.backend_configured)
    backend_connection_errors = staticmethod(tasks.BaseTaskHandler.backend_connection_errors)


class _Workers(WorkersView):
    """Counts as processed what has ended, not what came in: the same job comes in again after a stop or a loss."""

    def render(self, template: str, **values: Any) -> None:
        _count(values.get("workers", {}).values())
        super().render(template, **values)

    def write(self, chunk: Any) -> None:
        if isinstance(chunk, dict) and isinstance(chunk.get("data"), list):
            _count(chunk["data"])
        super().write(chunk)


def _count(workers: Any) -> None:
    for info in workers:
        info["task-received"] = sum(info.get(kind) or 0 for kind in _ENDS)
