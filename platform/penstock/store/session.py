"""What the verbs of the store see of a database: statements in, tuples out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from penstock.job import NewJob
from penstock.store.learned import Learned
from penstock.store.sql import Dialect, compile_sql

_encode = msgspec.json.encode
# Postgres knows how long a value is without reading it.
_SUMMED = """
    SELECT * FROM (
        SELECT whole.*, coalesce(sum(octet_length(output)) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
            AS before FROM (SELECTED) AS whole
    ) AS summed WHERE before <= :most"""

#: Rows of one INSERT on SQLite: a statement opens every index of its table, which for one row is a third of its time.
ROWS = 25


class Session:
    """One connection, for the length of one transaction. Statements are the texts that ``sql`` describes.

    It works on the driver's cursor: per row SQLAlchemy's result objects cost more than the databases themselves.
    """

    __slots__ = (
        "_compiled",
        "_cursor",
        "begun",
        "bulk_rows",
        "dialect",
        "inner",
        "learned",
        "maps",
        "max_output_bytes",
        "outputs",
        "pins",
        "publish_lease_s",
        "put_back",
        "released",
        "revoked",
        "spent",
        "todo",
    )

    def __init__(
        self,
        dialect: Dialect,
        cursor: Any,
        compiled: dict[Any, str],
        *,
        bulk_rows: int = 1000,
        publish_lease_s: float = 0.0,
        max_output_bytes: int = sys.maxsize,
        learned: Learned | None = None,
        pins: bool = False,
    ) -> None:
        self.dialect = dialect
        self._cursor = cursor
        self._compiled = compiled
        #: Rows of one bulk insert.
        self.bulk_rows = bulk_rows
        #: Steps that this transaction lets begin, and how long they are its process's to publish; 0: it does not.
        self.released: list[NewJob] = []
        self.publish_lease_s = publish_lease_s
        #: Longest output of a run.
        self.max_output_bytes = max_output_bytes
        #: Outputs of steps that this transaction has stored, as far as they are short: JSON by run and path.
        self.outputs: dict[tuple[str, str], str] = {}
        #: What this process remembers of batch times.
        self.learned = learned or Learned()
        #: Calls of plain tasks that were sent and are wanted no longer.
        self.revoked: list[str] = []
        #: Whether runs are put on the versions that are served when they begin.
        self.pins = pins
        #: Maps that this transaction has begun and not ended with (``runs.maps.Rest``).
        self.maps: list[Any] = []
        #: Runs within runs that this transaction has stored: their first steps are to begin, ids.
        self.inner: list[str] = []
        #: Ids of steps that have failed and are tried again.
        self.put_back: set[str] = set()
        #: What it has left to a transaction of its own (``runs.todo.Todo``).
        self.todo: list[Any] = []
        #: What its decisions about runs have taken, and what begins steps, operations (``pipelines.effort``).
        self.spent = self.begun = 0

    @property
    def cursor(self) -> Any:
        """The driver's own, for what only one of the databases has."""
        return self._cursor

    def all(self, statement: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Every row of the answer."""
        self._cursor.execute(self._text(statement), values or {})
        return self._cursor.fetchall()  # type: ignore[no-any-return]

    def one(self, statement: str, values: Mapping[str, Any] | None = None) -> tuple[Any, ...] | None:
        """The first row, or ``None``."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def most(self, statement: str, values: Mapping[str, Any], characters: int) -> list[tuple[Any, ...]] | None:
        """Every row of a SELECT whose last column is ``output``; ``None`` where these have more characters than that
        (on Postgres: bytes), and then few more than those were read.
        """
        if self.dialect is Dialect.SQLITE:
            self._cursor.execute(self._text(statement), values)
            found: Iterable[tuple[Any, ...]] = self._cursor
        else:
            summed = _SUMMED.replace("SELECTED", statement)
            found = [row[:-1] for row in self.all(summed, {**values, "most": characters})]
        rows, total = [], 0
        for row in found:
            rows.append(row)
            total += len(row[-1] or "")
            if total > characters:
                return None
        return rows

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> int:
        """Execute; how many rows it touched."""
        self._cursor.execute(self._text(statement), values or {})
        return self._cursor.rowcount  # type: ignore[no-any-return]

    def insert(self, spell: Callable[[Dialect, int], str], rows: Sequence[Sequence[Any]]) -> None:
        """A bulk INSERT made by ``sql.insert_sql``."""
        if not rows:
            return
        if self.dialect is Dialect.SQLITE:
            whole = len(rows) - len(rows) % ROWS
            if whole:
                blocks = (tuple(chain.from_iterable(rows[at : at + ROWS])) for at in range(0, whole, ROWS))
                self._cursor.executemany(self._spelled(spell, ROWS), blocks)
            self._cursor.executemany(self._spelled(spell, 1), rows[whole:])
        else:
            text = self._spelled(spell, 1)
            for chunk in _chunks(rows):
                self._cursor.execute(text, {"rows": chunk})

    def ids(self, ids: Iterable[str]) -> Any:
        """A list as the parameter of ``{in …}``."""
        return self.rows(list(ids)) if self.dialect is Dialect.SQLITE else list(ids)

    def rows(self, rows: Sequence[Any]) -> str:
        """A list of lists as the parameter of ``{each …}``."""
        return _encode(rows).decode()

    def _spelled(self, spell: Callable[[Dialect, int], str], rows: int) -> str:
        text = self._compiled.get((spell, rows))
        if text is None:
            text = self._compiled[spell, rows] = spell(self.dialect, rows)
        return text

    def _text(self, statement: str) -> str:
        text = self._compiled.get(statement)
        if text is None:
            text = self._compiled[statement] = compile_sql(statement, self.dialect)
        return text


#: Postgres refuses a jsonb value beyond 256 MiB, and holds several copies of it while it works.
_CHUNK_CHARS = 32 * 2**20


def _chunks(rows: Sequence[Sequence[Any]]) -> Iterable[str]:
    """The rows as JSON arrays of a bounded length, but of at least one row."""
    text = _encode(rows).decode()
    if len(text) <= _CHUNK_CHARS or len(rows) == 1:
        yield text
        return
    middle = len(rows) // 2
    yield from _chunks(rows[:middle])
    yield from _chunks(rows[middle:])
