"""A run's row, held while it is decided what follows: whoever decides has locked it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from penstock.job import NewJob
from penstock.store.runs.bounds import bounds_of
from penstock.store.runs.values import value_of
from penstock.store.session import Session

_LOCK = """
    SELECT id, graph, coalesce(generation, 0), input, lane, tenant, priority, deadline_at,
        timeout_s, trace, webhook, start_by, bounds FROM penstock_job
    WHERE id {in ids} AND {hidden state = 'running'} AND graph IS NOT NULL ORDER BY id {locked}"""


@dataclass(frozen=True)
class OpenRun:
    """What its steps have in common."""

    id: str
    graph: str
    generation: int
    #: By name, JSON text.
    given: str
    lane: str
    tenant: str
    priority: int
    deadline_at: float | None
    #: Of each attempt at a step that has none of its own.
    timeout_s: float | None
    trace: str | None
    webhook: str | None
    #: Where it is itself a step of a run with a deadline: see ``NewJob``.
    start_by: float | None
    #: Most of its steps in flight at a time. Runs in it have as many for themselves.
    max_parallel: int | None = None
    #: Device seconds that its steps may take; of a run within one, that one's.
    budget_s: float | None = None
    #: Whether this transaction has stored it.
    new: bool = False

    @property
    def bounded(self) -> bool:
        """Whether each end of a step matters to it, also of an element of a map."""
        return self.max_parallel is not None or self.budget_s is not None

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What it was given, by name; most decisions do without. Raises ``NoValue``."""
        found: dict[str, Any] = value_of(self.given)
        return found


def locked(session: Session, ids: Sequence[str]) -> list[OpenRun]:
    """Those of these runs that go on, locked in the order of their ids: who comes second sees what the first did."""
    rows = session.all(_LOCK, {"ids": session.ids(sorted(ids))}) if ids else []
    return [OpenRun(*row, **bounds_of(bounds)._asdict()) for *row, bounds in rows]


def as_run(job: NewJob, digest: str) -> OpenRun:
    """The same for a run that this transaction has stored."""
    return OpenRun(
        job.id,
        digest,
        job.generation or 0,
        job.input,
        job.lane,
        job.tenant,
        job.priority,
        job.deadline_at,
        job.timeout_s,
        job.trace,
        job.webhook,
        job.start_by,
        job.max_parallel,
        job.budget_s,
        new=True,
    )
