"""What the database says of runs and their steps, read with the bare drivers, beside whatever goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, NamedTuple

import psycopg
from benchmarks.processes import BenchmarkError


class Fill(NamedTuple):
    """Jobs of one model, and the mean size of the batches that they ran in."""

    jobs: int
    batch: float


class Rows:
    """The job table of one database. Of jobs in the order of their ids, ``after`` is the last that does not count."""

    def __init__(self, url: str) -> None:
        self._url = url

    def newest(self) -> str:
        """The last job so far."""
        return str(self._one("SELECT coalesce(max(id), '') FROM penstock_job"))

    def any_open(self, after: str) -> bool:
        """Whether a job or a run has not ended; it stops at the first, so that it costs those it waits for little."""
        where = "state IN ('accepted', 'queued', 'running')"
        return bool(self._one(f"SELECT EXISTS (SELECT 1 FROM penstock_job WHERE {where} AND id > '{after}')"))  # noqa: S608

    def open_runs(self, after: str) -> list[str]:
        """Those that have not ended."""
        where = "graph IS NOT NULL AND state IN ('accepted', 'running')"
        rows = self._all(f"SELECT id FROM penstock_job WHERE {where} AND id > '{after}' ORDER BY id")  # noqa: S608
        return [row[0] for row in rows]

    def good_share(self, after: str) -> float:
        """Of all, those that have succeeded."""
        good = "count(*) FILTER (WHERE state = 'succeeded')"
        return float(self._one(f"SELECT 1.0 * {good} / count(*) FROM penstock_job WHERE id > '{after}'"))  # noqa: S608

    def check(self, after: str) -> None:
        """Raise ``BenchmarkError`` unless all have succeeded."""
        if (good := self.good_share(after)) < 1:
            raise BenchmarkError(f"{1 - good:.1%} of the jobs did not succeed")

    def edges_s(self, after: str, parent: str = "noop", child: str = "noop-2") -> list[float]:
        """From the end of the parent to the start of the child, for each run."""
        statement = f"""
            SELECT child.started_at - parent.settled_at FROM penstock_job AS child
            JOIN penstock_job AS parent ON parent.run_id = child.run_id
            WHERE child.path = '{child}' AND parent.path = '{parent}' AND child.id > '{after}'"""  # noqa: S608
        return [float(row[0]) for row in self._all(statement)]

    def join_lag_s(self, after: str) -> float:
        """From the end of the last element of a map to the start of the step behind it."""
        join = f"SELECT max(started_at) FROM penstock_job WHERE path = 'join' AND id > '{after}'"  # noqa: S608
        last = f"SELECT max(settled_at) FROM penstock_job WHERE path LIKE 'noop[%' AND id > '{after}'"  # noqa: S608
        return float(self._one(join)) - float(self._one(last))

    def spans_s(self, after: str) -> list[float]:
        """How long each run took, from its acceptance to its end."""
        where = f"graph IS NOT NULL AND id > '{after}'"
        rows = self._all(f"SELECT settled_at - accepted_at FROM penstock_job WHERE {where}")  # noqa: S608
        return [float(row[0]) for row in rows]

    def last_settled_at(self, after: str) -> float:
        """When the last of them ended, Unix seconds."""
        return float(self._one(f"SELECT max(settled_at) FROM penstock_job WHERE id > '{after}'"))  # noqa: S608

    def fill(self, model: str, after: str) -> Fill:
        """Of one model's jobs."""
        where = f"model = '{model}' AND batch_size IS NOT NULL AND id > '{after}'"
        jobs, batches = self._all(f"SELECT count(*), sum(1.0 / batch_size) FROM penstock_job WHERE {where}")[0]  # noqa: S608
        return Fill(int(jobs), float(jobs / batches) if batches else 0.0)

    def _one(self, statement: str) -> Any:
        return self._all(statement)[0][0]

    def _all(self, statement: str) -> list[tuple[Any, ...]]:
        if self._url.startswith("postgres"):
            with psycopg.connect(self._url) as server:
                return server.execute(statement.encode()).fetchall()
        with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30)) as file:
            return file.execute(statement).fetchall()
