"""A new run of an old one's graph, which takes over what is not to be done again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penstock.job import NewJob, new_id
from penstock.pipelines.frontier import Outline
from penstock.store.runs.paths import elements_of, place
from penstock.store.session import Session
from penstock.store.sql import insert_sql

# What a step was, and what came of it; its id and its run are new.
_COPIED = (
    "state",
    "attempt",
    "worker",
    "model",
    "version",
    "asked_version",
    "lane",
    "tenant",
    "priority",
    "accepted_at",
    "available_at",
    "queued_at",
    "claimed_at",
    "started_at",
    "settled_at",
    "batch_wait_s",
    "load_s",
    "compute_s",
    "transfer_s",
    "batch_size",
    "batch_reason",
    "input",
    "output",
    "path",
)
_PLAIN = f"""
    SELECT {", ".join(_COPIED)} FROM penstock_job
    WHERE run_id = :run AND path {{in names}} AND {{hidden state = 'succeeded'}}"""  # noqa: S608 - constants only
_ELEMENTS = f"""
    SELECT {", ".join(_COPIED)} FROM penstock_job
    WHERE run_id = :run AND path >= :low AND path < :high AND {{hidden state = 'succeeded'}}"""  # noqa: S608
_MAPS = "SELECT path, size FROM penstock_map WHERE run_id = :run AND pending = 0"
_INSERT = insert_sql("penstock_job", ["id", "run_id", "generation", *_COPIED])
_INSERT_MAP = insert_sql(
    "penstock_map",
    ["run_id", "path", "size", "begun", "pending", "begun_at"],
)


def take_over(session: Session, source: str, run: NewJob, plan: Outline, again: Collection[str]) -> None:
    """Copy the steps of ``source`` that have succeeded, but for those that are to be done ``again``."""
    names = [name for name in plan.plain if name not in again]
    rows = session.all(_PLAIN, {"run": source, "names": session.ids(names)})
    whole = [(path, size) for path, size in session.all(_MAPS, {"run": source}) if path not in again]
    for path, size in whole:
        elements = session.all(_ELEMENTS, {"run": source, **elements_of(path)})
        found = {place(row[-1])[1]: row for row in elements}
        rows += [found[index] for index in range(size)]
    copies: list[tuple[Any, ...]] = [(new_id(), run.id, 0, *row) for row in rows]
    session.insert(_INSERT, copies)
    session.insert(_INSERT_MAP, [(run.id, path, size, size, 0, run.accepted_at) for path, size in whole])
