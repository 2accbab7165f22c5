"""A step becomes a job when its last parent has succeeded, in the very transaction that settles that parent."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from penstock.job import NewJob, new_id
from penstock.lane import split_name
from penstock.pipelines.graph import Step
from penstock.pipelines.task import model_of
from penstock.store.columns import STEP
from penstock.store.runs.athand import AtHand
from penstock.store.runs.inner import Beginning, inputs_of, store
from penstock.store.runs.run import OpenRun
from penstock.store.runs.slack import start_by
from penstock.store.runs.values import Outputs
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: The input of a step that is none of a map's: what it is given is the graph's to say, at its claim.
NO_ELEMENT = "[]"

_COLUMNS = (*STEP, "asked_version", "deadline_at", "start_by")
_encode = msgspec.json.encode
_values = attrgetter(*_COLUMNS)
_INSERT = insert_sql("penstock_job", [*_COLUMNS, "state", "publish_lease_until"])


class Release:
    """Steps that begin with one transaction, of however many runs: stored by one statement."""

    def __init__(self, session: Session, *, now: float) -> None:
        self._session = session
        self._now = now
        self._jobs: list[NewJob] = []
        self._inner: list[Beginning] = []

    def add_items(
        self, run: OpenRun, step: Step, outputs: Outputs, items: Sequence[tuple[str, Any]], *, most: int = sys.maxsize
    ) -> int:
        """Begin a step once for each of ``items``: paths, and the elements of the map there (``None`` for no map).

        How many of them were added: where each is a run, whose input is stored with it, as many as have ``most``
        characters together; else all. Raises ``NoValue`` and ``InvalidOutput``.
        """
        if step.graph is None:
            self.add(run, step, ((path, _encode([item]).decode()) for path, item in items))
            return len(items)
        given: list[tuple[str, str]] = []
        characters = 0
        for path, item in items:
            if characters >= most:
                break
            given.append((path, inputs_of(run, step, outputs, (item,), self._session.max_output_bytes)))
            characters += len(given[-1][1])
        self._inner.append(Beginning(run, step.graph, given, start_by(self._session, run, step)))
        return len(given)

    def add(
        self, run: OpenRun, step: Step, elements: Iterable[tuple[str, str]], around: Mapping[str, str] | None = None
    ) -> None:
        """Begin a step that is no run, once for each of ``elements``: paths, and what is stored as the job's input, a
        JSON list with the map's element (``NO_ELEMENT`` for no map). ``around`` has such lists by path where they are
        not stored, as far as they are at hand.
        """
        if step.task is not None:
            model, asked, due_at = model_of(step.task.name), None, step.task.due_at(self._now)
        else:
            (model, asked), due_at = split_name(step.model), self._now
        timeout_s = run.timeout_s if step.timeout is None else step.timeout
        at_hand = AtHand(run, step, self._session.outputs)
        begin_at = start_by(self._session, run, step)
        self._jobs += [
            NewJob(
                id=new_id(),
                model=model,
                asked_version=asked,
                input=items,
                lane=run.lane,
                accepted_at=self._now,
                available_at=due_at,
                tenant=run.tenant,
                priority=run.priority,
                deadline_at=run.deadline_at,
                timeout_s=timeout_s,
                trace=run.trace,
                run_id=run.id,
                path=path,
                generation=run.generation,
                given=at_hand.given(items if around is None else around.get(path)),
                start_by=begin_at,
            )
            for path, items in elements
        ]

    def store(self) -> None:
        """Store what was added."""
        if self._inner:
            inner, self._inner = self._inner, []
            store(self._session, inner, now=self._now)
        jobs, self._jobs = self._jobs, []
        lease_s = self._session.publish_lease_s
        lease = self._now + lease_s if lease_s else 0.0
        self._session.insert(_INSERT, [(*_values(job), "accepted", lease) for job in jobs])
        self._session.released += jobs
