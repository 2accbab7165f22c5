"""A new run of an old one's graph, which takes over what is not to be done again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penstock.job import NewJob, new_id
from penstock.pipelines.frontier import Outline
from penstock.store.runs.values import place
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
_TYPES = {
    name: "float"
    for name in _COPIED
    if name.endswith(("_at", "_s"))
} | dict.fromkeys(("attempt", "priority", "batch_size"), "int")  # fmt: skip
_PLAIN = f"""
    SELECT {", ".join(_COPIED)} FROM penstock_job
    WHERE run_id = :run AND path {{in names}} AND {{hidden state = 'succeeded'}}"""  # noqa: S608 - constants only
_ELEMENTS = f"""
    SELECT {", ".join(_COPIED)} FROM penstock_job
    WHERE run_id = :run AND path >= :low AND path < :high AND {{hidden state = 'succeeded'}}"""  # noqa: S608
_MAPS = "SELECT path, size FROM penstock_map WHERE run_id = :run AND pending = 0"
_INSERT = insert_sql(
    "penstock_job",
    ["id", "run_id", "generation", *_COPIED],
    ["text", "text", "int", *(_TYPES.get(name, "text") for name in _COPIED)],
    "",
)
_INSERT_MAP = insert_sql(
    "penstock_map",
    ["run_id", "path", "size", "begun", "pending", "begun_at"],
    ["text", "text", "int", "int", "int", "float"],
    "",
)


def take_over(session: Session, source: str, run: NewJob, plan: Outline, again: Collection[str]) -> None:
    """Copy the steps of ``source`` that have succeeded, but for those that are to be done ``again``."""
    names = [name for name in plan.plain if name not in again]
    rows = session.all(_PLAIN, {"run": source, "names": session.ids(names)})
    whole = [(path, size) for path, size in session.all(_MAPS, {"run": source}) if path not in again]
    kept = {*(row[-1] for row in rows), *(path for path, _ in whole)}
    if plan.straight:  # what has ended between the two looks is not taken over without what it came of
        for name in plan.order:
            if not kept.issuperset(plan.parents[name]):
                kept.discard(name)
        rows = [row for row in rows if row[-1] in kept]
        whole = [(path, size) for path, size in whole if path in kept]
    for path, size in whole:
        values = {"run": source, "low": f"{path}[", "high": f"{path}\\"}
        found = {place(row[-1])[1]: row for row in session.all(_ELEMENTS, values)}
        rows += [found[index] for index in range(size)]
    copies: list[tuple[Any, ...]] = [(new_id(), run.id, 0, *row) for row in rows]
    session.insert(_INSERT, copies)
    session.insert(_INSERT_MAP, [(run.id, path, size, size, 0, run.accepted_at) for path, size in whole])
