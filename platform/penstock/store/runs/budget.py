"""What runs may spend: the device seconds that their steps were charged for, summed in the outermost run's row.

A step counts when it has ended for good, with all its attempts. One that answers with more steps counts by then, and
these when they end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.errors import OverBudget
from penstock.store.records import Settled
from penstock.store.runs.bounds import bounds_of
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session

_SPENT = "SELECT run_id, sum(device_s) FROM penstock_job WHERE id {in ids} GROUP BY run_id"
_TOOK = "SELECT id, coalesce(device_s, 0) FROM penstock_job WHERE id {in ids}"
# The outermost of the runs around each.
_ROOTS = """
    WITH RECURSIVE around (id, run) AS (
        SELECT id, id FROM penstock_job WHERE id {in ids}
        UNION ALL
        SELECT around.id, penstock_job.run_id FROM around JOIN penstock_job ON penstock_job.id = around.run
        WHERE penstock_job.run_id IS NOT NULL
    ) SELECT around.id, run FROM around JOIN penstock_job ON penstock_job.id = run WHERE penstock_job.run_id IS NULL"""
_BOOK = """
    UPDATE penstock_job SET device_s = coalesce(device_s, 0) + {1 float} FROM {each rows}
    WHERE penstock_job.id = {0 text} AND {hidden state = 'running'} RETURNING penstock_job.id, device_s, bounds"""


@dataclass(frozen=True, slots=True)
class Overdraft:
    """A run that has spent more than it may: the outermost one, whose budget it is."""

    run: str
    spent_s: float
    budget_s: float

    @property
    def error(self) -> OverBudget:
        """What it fails with."""
        return OverBudget(spent_s=self.spent_s, budget_s=self.budget_s)


def book(session: Session, runs: Sequence[OpenRun], settled: Iterable[Settled]) -> dict[str, Overdraft]:
    """Count what these steps have taken of the runs that have a budget; which of ``runs``, all held, are over it."""
    limited = [run.id for run in runs if run.budget_s is not None]
    if not limited:
        return {}
    mine = set(limited)
    # One that went on as a run was counted when it did.
    ids = [row.id for row in settled if row.run_id in mine and row.graph is None]
    spent = dict(session.all(_SPENT, {"ids": session.ids(sorted(ids))})) if ids else {}
    return charge(session, {run: spent.get(run) or 0.0 for run in limited})


def called(session: Session, runs: Sequence[OpenRun]) -> None:
    """Count the calls that have answered with these runs."""
    limited = [run.id for run in runs if run.budget_s is not None]
    if limited:
        charge(session, dict(session.all(_TOOK, {"ids": session.ids(limited)})))


def charge(session: Session, spent: Mapping[str, float]) -> dict[str, Overdraft]:
    """Count device seconds of runs that are part of one with a budget; those of which the whole is over it."""
    roots = dict(session.all(_ROOTS, {"ids": session.ids(sorted(spent))}))
    sums: dict[str, float] = {}
    for run, seconds in spent.items():
        if run in roots:
            sums[roots[run]] = sums.get(roots[run], 0.0) + seconds
    rows = session.all(_BOOK, {"rows": session.rows(sorted(sums.items()))})
    limits = [(id, took, bounds_of(text).budget_s) for id, took, text in rows]
    over = {id: Overdraft(id, took, most) for id, took, most in limits if most is not None and took > most}
    return {run: over[root] for run, root in roots.items() if root in over}
