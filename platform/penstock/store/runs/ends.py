"""The ends of runs: collected, and stored by one statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.job import JobState
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session

_END = f"""
    UPDATE penstock_job SET state = {{1 text}}, settled_at = :now, output = {{2 text}}, error = {{3 text}},
        closing = CASE WHEN EXISTS (SELECT 1 FROM penstock_job AS step WHERE step.run_id = {{0 text}}
            AND step.state IN ('accepted', 'queued', 'running')) THEN true END
    FROM {{each rows}}
    WHERE penstock_job.id = {{0 text}} AND {{hidden state = 'running'}} AND graph IS NOT NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only


def error_of(path: str | None, id: str, error: Mapping[str, Any]) -> dict[str, Any]:
    """A step's error as that of its run, with the step's path and job. Of a run within it says which of its own steps
    it was: ``each[3]/embed``."""
    if "step" in error:
        return {**error, "step": f"{path}/{error['step']}"}
    return {**error, "step": path, "job": id}


class Ends:
    """Runs that end with one transaction."""

    def __init__(self, session: Session, *, now: float) -> None:
        self._session = session
        self._now = now
        self._rows: dict[str, tuple[str, str, str | None, str | None]] = {}

    def add(
        self, run: OpenRun, state: JobState, *, output: str | None = None, error: Mapping[str, Any] | None = None
    ) -> None:
        """A run, which is locked; ``output`` is JSON text."""
        text = None if error is None else msgspec.json.encode(error).decode()
        self._rows[run.id] = (run.id, state.value, output, text)

    def __contains__(self, run: object) -> bool:
        """Whether the run of this id is one of them."""
        return run in self._rows

    def store(self) -> list[Settled]:
        """Their rows."""
        if not self._rows:
            return []
        rows = [self._rows[id] for id in sorted(self._rows)]
        found = self._session.all(_END, {"rows": self._session.rows(rows), "now": self._now})
        return [settled_of(row)._replace(output=self._rows[row[0]][2]) for row in found]
