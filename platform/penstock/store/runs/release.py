"""A step becomes a job when its last parent has succeeded, in the very transaction that settles that parent."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from penstock.job import NewJob, new_id
from penstock.lane import split_name
from penstock.pipelines.graph import Step
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: The input of a step that is none of a map's: what it is given is the graph's to say, at its claim.
NO_ELEMENT = "[]"

_COLUMNS = {
    "id": "text",
    "model": "text",
    "version": "text",
    "asked_version": "text",
    "input": "text",
    "lane": "text",
    "accepted_at": "float",
    "available_at": "float",
    "tenant": "text",
    "priority": "int",
    "deadline_at": "float",
    "timeout_s": "float",
    "trace": "text",
    "run_id": "text",
    "path": "text",
    "generation": "int",
}
_values = attrgetter(*_COLUMNS)
_INSERT = insert_sql(
    "penstock_job",
    [*_COLUMNS, "state", "publish_lease_until"],
    [*_COLUMNS.values(), "text", "float"],
    "",
)


def release(session: Session, run: OpenRun, step: Step, elements: Iterable[tuple[str, str]], *, now: float) -> None:
    """Store jobs for a step: ``elements`` are paths, and JSON lists of what the maps around are at."""
    model, asked = split_name(step.model)
    jobs = [
        NewJob(
            id=new_id(),
            model=model,
            asked_version=asked,
            input=items,
            lane=run.lane,
            accepted_at=now,
            available_at=now,
            tenant=run.tenant,
            priority=run.priority,
            # The run's: who has less time left goes first, and a step that is late is a run that is late.
            deadline_at=run.deadline_at,
            timeout_s=run.timeout_s if step.timeout is None else step.timeout,
            trace=run.trace,
            run_id=run.id,
            path=path,
            generation=run.generation,
        )
        for path, items in elements
    ]
    lease = now + session.publish_lease_s if session.publish_lease_s else 0.0
    session.insert(_INSERT, [(*_values(job), "accepted", lease) for job in jobs])
    session.released += jobs
