"""What the cluster says of our Jobs and pods, in our words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from penstock.autoscaler.backends.kubernetes.manifest import ATTEMPT, CONTAINER, EPOCH, POOL, SLOT, TEMPLATE
from penstock.processes.agreed import MEANING

#: Why a container waits, when waiting does not help: a person must do something.
WAITS_FOR_A_PERSON = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
#: Longest text that is taken over from the cluster.
LONGEST_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A Job of ours."""

    name: str
    slot: str
    pool: str
    attempt: int = 1
    #: That of the leader who made it.
    epoch: int = 0
    template: str = ""
    state: Literal["open", "complete", "failed"] = "open"
    #: Why it failed, in the cluster's words.
    why: str = ""
    #: From its start to its end, by the cluster's own clock.
    lived_s: float | None = None
    #: Being deleted.
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of such a Job."""

    name: str
    slot: str
    job: str = ""
    node: str = ""
    phase: Literal["pending", "running", "ended"] = "pending"
    #: Why it does not come up, for a person.
    trouble: str = ""
    #: The exit status of a worker that has ended.
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """All of them, at one moment."""

    jobs: Mapping[str, Made] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)


def read_job(job: Any) -> Made | None:
    """A Job of the API's, or ``None`` if it is none of ours."""
    labels, notes = job.metadata.labels or {}, job.metadata.annotations or {}
    if SLOT not in labels:
        return None
    status, state, why = job.status, "open", ""
    ended_at: datetime | None = getattr(status, "completionTime", None)
    for condition in getattr(status, "conditions", None) or []:
        if condition.status == "True" and condition.type in ("Complete", "Failed"):
            state = condition.type.lower()
            why = sentence(condition.reason, condition.message)
            ended_at = ended_at or condition.lastTransitionTime
    began_at = getattr(status, "startTime", None)
    return Made(
        name=job.metadata.name,
        slot=labels[SLOT],
        pool=labels.get(POOL, ""),
        attempt=_number(notes.get(ATTEMPT), 1),
        epoch=_number(notes.get(EPOCH), 0),
        template=labels.get(TEMPLATE, ""),
        state=state,  # type: ignore[arg-type]  # one of the three
        why=why,
        lived_s=(ended_at - began_at).total_seconds() if state != "open" and ended_at and began_at else None,
        leaving=job.metadata.deletionTimestamp is not None,
    )


def read_pod(pod: Any) -> Pod | None:
    """A pod of the API's, or ``None`` if it is none of ours."""
    labels = pod.metadata.labels or {}
    if SLOT not in labels:
        return None
    phase = {"Running": "running", "Succeeded": "ended", "Failed": "ended"}.get(pod.status.phase or "", "pending")
    return Pod(
        name=pod.metadata.name,
        slot=labels[SLOT],
        job=labels.get("batch.kubernetes.io/job-name", ""),
        node=(pod.spec.nodeName if pod.spec else None) or "",
        phase=phase,  # type: ignore[arg-type]  # one of the three
        trouble=_trouble(pod.status) if phase == "pending" else "",
        status=_exit_status(pod.status),
    )


def crash_loop(deaths: int, pods: Sequence[Pod]) -> str:
    """What to say of a slot whose workers end soon."""
    statuses = [pod.status for pod in pods if pod.status is not None]
    last = f", last with status {statuses[-1]}" if statuses else ""
    meaning = f" ({MEANING[statuses[-1]]})" if statuses and statuses[-1] in MEANING else ""
    return f"CrashLoop: its workers ended soon, {deaths} in a row{last}{meaning}"


def sentence(reason: str | None, message: str | None) -> str:
    """A reason of the cluster's, with its message, of a bounded length."""
    text = ": ".join(" ".join(part.split()) for part in (reason, message) if part)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _trouble(status: Any) -> str:
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return sentence(condition.reason, condition.message)
    for container in [*(status.initContainerStatuses or []), *(status.containerStatuses or [])]:
        waiting = container.state.waiting if container.state else None
        if waiting and waiting.reason in WAITS_FOR_A_PERSON:
            return sentence(waiting.reason, waiting.message)
    return ""


def _exit_status(status: Any) -> int | None:
    for container in status.containerStatuses or []:
        if container.name == CONTAINER and container.state and container.state.terminated:
            return int(container.state.terminated.exitCode)
    return None


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default
