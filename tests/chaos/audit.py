"""Witnesses that do not trust the code under test.

The database itself writes down every change of state (triggers), and the model writes down every execution (a file,
appended to). ``Audit.verify`` holds both against what was accepted.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from penstock.job import TERMINAL, TRANSITIONS, JobState
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer

_SETTLED = "SELECT count(*) FROM penstock_job WHERE state IN ('succeeded', 'failed', 'cancelled', 'expired')"
_OPEN = "SELECT state, count(*) FROM penstock_job WHERE state IN ('accepted', 'queued', 'running') GROUP BY state"

_TABLE = """
CREATE TABLE chaos_change (job_id TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, attempt INTEGER NOT NULL)
"""

_SQLITE = [
    _TABLE,
    """
    CREATE TRIGGER chaos_change AFTER UPDATE OF state ON penstock_job WHEN OLD.state <> NEW.state
    BEGIN INSERT INTO chaos_change VALUES (NEW.id, OLD.state, NEW.state, NEW.attempt); END
    """,
]

_POSTGRES = [
    _TABLE,
    """
    CREATE FUNCTION chaos_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO chaos_change VALUES (NEW.id, OLD.state, NEW.state, NEW.attempt); RETURN NULL; END $$
    """,
    """
    CREATE TRIGGER chaos_change AFTER UPDATE OF state ON penstock_job FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION chaos_change()
    """,
]


class Audit:
    """The witnesses of one test. ``ledger`` is the file that the model appends a line to for each execution."""

    def __init__(self, database_url: str, ledger: Path) -> None:
        self._url = database_url
        self.ledger = ledger

    def install(self) -> None:
        """Start to write changes of state down."""
        for statement in _SQLITE if self._on_sqlite else _POSTGRES:
            self._run(statement)

    @property
    def _on_sqlite(self) -> bool:
        return self._url.startswith("sqlite")

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        if self._on_sqlite:
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30)) as file, file:
                return file.execute(statement).fetchall()
        with psycopg.connect(
            self._url.replace("postgresql+psycopg://", "postgresql://"), connect_timeout=int(PATIENCE_S)
        ) as server:
            cursor = server.execute(statement)
            return cursor.fetchall() if cursor.description else []

    # What is asked while things happen --------------------------------------------------------------------------

    def settled(self) -> int:
        """How many jobs have ended."""
        return int(self._run(_SETTLED)[0][0])

    def open(self) -> dict[str, int]:
        """How many jobs are in each state that is not terminal."""
        return {str(state): int(count) for state, count in self._run(_OPEN)}

    def busy_workers(self) -> list[str]:
        """The worker instances that hold running jobs."""
        return [str(row[0]) for row in self._run("SELECT DISTINCT worker FROM penstock_job WHERE state = 'running'")]

    def executions(self) -> Counter[str]:
        """Key of an item -> how often the model was given it."""
        return Counter(self.ledger.read_text().split()) if self.ledger.exists() else Counter()

    # What must hold in the end ------------------------------------------------------------------------------------

    def states(self) -> dict[str, JobState]:
        """The state of every job."""
        return {str(id): JobState(state) for id, state in self._run("SELECT id, state FROM penstock_job")}

    def attempts(self) -> dict[str, int]:
        """The fencing number of every job: how often it was claimed."""
        return {str(id): int(attempt) for id, attempt in self._run("SELECT id, attempt FROM penstock_job")}

    def verify(self, accepted: Mapping[str, str], *, expected: Mapping[str, Iterable[JobState]]) -> Counter[JobState]:
        """Hold everything against ``accepted`` (job id -> key of its item) and the states each job may end in.

        Nothing is lost, every job has ended in a state that its item allows, it ended exactly once, every change of
        state was legal, and no attempt ran twice. Returns how many jobs ended in each state.
        """
        states = self.states()
        lost = accepted.keys() - states.keys()
        assert not lost, f"{len(lost)} accepted jobs are not in SQL: {sorted(lost)[:5]}"
        unfinished = {id: state for id, state in states.items() if state not in TERMINAL}
        assert not unfinished, f"{len(unfinished)} jobs never ended: {list(unfinished.items())[:5]}"
        wrong = {id: states[id] for id, allowed in expected.items() if states[id] not in tuple(allowed)}
        assert not wrong, f"{len(wrong)} jobs ended wrongly: {list(wrong.items())[:5]}"
        self._verify_changes(states)
        self._verify_executions(accepted, states)
        return Counter(states.values())

    def _verify_changes(self, states: Mapping[str, JobState]) -> None:
        changes = [
            (str(id), JobState(source), JobState(target))
            for id, source, target in self._run("SELECT job_id, source, target FROM chaos_change")
        ]
        illegal = [change for change in changes if change[2] not in TRANSITIONS[change[1]]]
        assert not illegal, f"illegal changes of state: {illegal[:5]}"
        settled = Counter(id for id, _, target in changes if target in TERMINAL)
        twice = {id: count for id, count in settled.items() if count != 1}
        assert not twice, f"{len(twice)} jobs were settled more than once: {list(twice.items())[:5]}"
        assert settled.keys() == states.keys(), "some jobs ended without anybody settling them"

    def _verify_executions(self, accepted: Mapping[str, str], states: Mapping[str, JobState]) -> None:
        executions, attempts = self.executions(), self.attempts()
        never = [id for id, key in accepted.items() if states[id] is JobState.SUCCEEDED and not executions[key]]
        assert not never, f"{len(never)} jobs succeeded and never ran: {never[:5]}"
        often = {id: (executions[key], attempts[id]) for id, key in accepted.items() if executions[key] > attempts[id]}
        assert not often, f"{len(often)} jobs ran more often than they were claimed: {list(often.items())[:5]}"


def messages_held(server: RedisServer, namespace: str) -> tuple[int, int]:
    """How many messages of the chaos model the broker holds: ready ones, and ones that a consumer has claimed."""
    with server.client() as client:
        ready = sum(client.llen(key) for key in client.scan_iter(f"{namespace}.witnessed.*", count=1000))
        return ready, sum(client.hlen(key) for key in client.scan_iter(f"{namespace}:unacked:*", count=1000))
