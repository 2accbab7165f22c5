"""Work in seconds of device time: what waits, what comes, how long a job takes. PURE bookkeeping for the autoscaler.

A job's time is its share of a batch of the size that its queue allows: a worker that has a hundred jobs of a model does
them in full batches, so a hundred single batches would ask for many times the workers that are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from penstock.policy.overload import keeping

K = TypeVar("K")

#: Workers tell a second late what they have done: what has gone without a word is set off against what comes next, as
#: far as they can have done it lately, and is forgiven by half in so long, seconds. The rest was cancelled.
FORGIVEN_S = 5.0
#: What was done so long ago counts half in what can have been done lately, seconds: in all, that of three.
LATELY_S = 2.0
#: The weight of a measured job's time from look to look: about the last minute counts.
KEPT = 0.98


class Pace(Struct, frozen=True):
    """A batch of ``n`` jobs takes ``first_s + n * each_s``, and has ``size`` of them at most."""

    first_s: float
    each_s: float
    size: float = 1.0

    @property
    def job_s(self) -> float:
        """Device seconds of a job in a full batch."""
        return self.each_s + self.first_s / self.size

    def seconds(self, jobs: float) -> float:
        """Device seconds of so many jobs that are there together."""
        batches = jobs / min(self.size, max(jobs, 1.0))
        return self.each_s * jobs + self.first_s * batches


def pace(
    line: Mapping[str, Any] | None, *, size: int, target_s: float, measured_s: float | None = None, steps: bool = False
) -> Pace | None:
    """What is known of a model's jobs in one lane; ``None``: nothing.

    ``line`` is the stored line of its batches (``policy.latency``), ``measured_s`` what a job has really taken.
    Batches are no larger than the lane's target allows, where smaller ones keep it. Costs of a job's own choosing, and
    sequences of a step-wise model (``steps``), are in no line by the job: of those what was measured is all there is.
    """
    if line is not None and not steps:
        alpha, beta = float(line.get("alpha", 0.0)), float(line.get("beta", 0.0))
        by_the_job = float(line.get("largest", 0.0)) <= size
        if by_the_job and (alpha > 0 or beta > 0):
            kept = keeping(target_s, alpha=alpha, beta=beta, size=float(size))
            return Pace(alpha, beta, max(1.0, kept[1] if kept is not None else float(size)))
    return None if measured_s is None else Pace(0.0, measured_s)


class Count(Struct, frozen=True, kw_only=True):
    """One queue at one look: messages that are ``there`` (ready and held), and what was done of it since ever."""

    there: float = 0.0
    #: Those of them that workers hold.
    held: float = 0.0
    done: int = 0
    device_s: float = 0.0
    #: Jobs that were not taken on, since ever.
    refused: int = 0


class Queue(Struct, frozen=True):
    """What one queue's looks leave for the next."""

    count: Count
    #: Jobs that have come since the look before, and those of them that were not taken on.
    came: float = 0.0
    refused: float = 0.0
    #: Below 0: jobs that have gone without a word.
    owed: float = 0.0
    #: Jobs that were done lately.
    lately: float = 0.0
    #: Device seconds and jobs of the last minute, the newest counting most.
    spent_s: float = 0.0
    spent_on: float = 0.0

    @property
    def measured_s(self) -> float | None:
        """What a job took; ``None``: none was done."""
        return self.spent_s / self.spent_on if self.spent_on > 0 and self.spent_s > 0 else None


def first(count: Count) -> Queue:
    """A queue that is seen for the first time. What it took since ever is the best guess, and gives way to news."""
    jobs = float(min(count.done, 1))
    return Queue(count, spent_s=count.device_s / count.done * jobs if count.done else 0.0, spent_on=jobs)


def after(before: Queue, count: Count, *, elapsed_s: float) -> Queue:
    """The same queue at the next look, ``elapsed_s`` later."""
    done, device_s = count.done - before.count.done, count.device_s - before.count.device_s
    if done < 0 or device_s < 0:  # the broker has lost its data
        return first(count)
    came = count.there - before.count.there + done + before.owed
    keep = KEPT if done else 1.0
    lately = before.lately * 0.5 ** (elapsed_s / LATELY_S) + done
    owed = max(min(0.0, came), -(lately + max(before.count.held, count.held)))
    refused = max(0.0, float(count.refused - before.count.refused))
    return Queue(
        count,
        came=max(0.0, came) + refused,
        refused=refused,
        owed=owed * 0.5 ** (elapsed_s / FORGIVEN_S),
        lately=lately,
        spent_s=before.spent_s * keep + device_s,
        spent_on=before.spent_on * keep + done,
    )


def due(deadlines: Iterable[tuple[float, K]], seconds: Mapping[K, float], *, now: float) -> list[tuple[float, float]]:
    """``(slack_s, device seconds)`` of jobs by ``(deadline_at, queue)``, as far as their times are known."""
    return [(at - now, seconds[queue]) for at, queue in deadlines if queue in seconds]
