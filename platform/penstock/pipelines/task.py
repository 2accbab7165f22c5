"""A plain Celery task as a step: which one, and how its message is sent to workers of another program. PURE.

What it is given is the step's ``input``: an object with ``args``, a list, and ``kwargs``; ``after``, if there, is only
waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.errors import InvalidInput
from penstock.lane import MAX_PRIORITY, MIN_PRIORITY

#: Longest names of tasks and queues, characters.
MAX_NAME = 255
#: Longest time that a task may name, seconds.
MAX_SPAN_S = 100 * 365.25 * 86400

#: What the ``model`` of a task's job begins with: no model's name has a colon.
PREFIX = "celery:"


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task by its name, and the options of its message. Spans are seconds from when the step could begin, which is
    when its last parent ended; ``eta`` and ``expires_at`` are Unix seconds."""

    name: str
    queue: str
    priority: int = 0
    countdown: float = 0.0
    eta: float | None = None
    expires: float | None = None
    expires_at: float | None = None
    #: Of each run of the task, seconds; its worker keeps them.
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool = False
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    #: Whether it may run twice: one that is lost is sent again.
    resend: bool = False

    def due_at(self, now: float) -> float:
        """When its message is sent, if the step can begin ``now``."""
        return now + self.countdown if self.eta is None else max(now, self.eta)

    def ends_at(self, began_at: float) -> float | None:
        """From when on no worker begins with it, if the step could begin at ``began_at``."""
        return self.expires_at if self.expires is None else began_at + self.expires


def model_of(task: str) -> str:
    """The ``model`` of a job that is a call of this task."""
    return PREFIX + task


def is_task(model: str) -> bool:
    """Whether a job's ``model`` says that it is a call of a plain task."""
    return model.startswith(PREFIX)


def check_task(step: str, task: Task | None) -> None:
    """Raise ``InvalidInput`` for a task that cannot be sent."""
    if task is None:
        raise InvalidInput(f"step {step!r} is a task, and names none", fix='give it "task": {"name": …, "queue": …}')
    for what, name in (("name", task.name), ("queue", task.queue)):
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidInput(f"step {step!r} has a task whose {what} is {name!r:.80}", fix=f"give it a {what}")
    if not MIN_PRIORITY <= task.priority <= MAX_PRIORITY:
        raise InvalidInput(f"step {step!r} has priority={task.priority!r}", fix="use a whole number from 0 to 9")
    spans = {name: getattr(task, name) for name in ("countdown", "expires", "time_limit", "soft_time_limit")}
    for name, value in spans.items():
        if value is not None and not 0 <= value <= MAX_SPAN_S:
            raise InvalidInput(f"step {step!r} has {name}={value!r}", fix="give seconds, 0 or more")
    for name, value in (("eta", task.eta), ("expires_at", task.expires_at)):
        if value is not None and not abs(value) <= 2**52:
            raise InvalidInput(f"step {step!r} has {name}={value!r}", fix="give Unix seconds")
