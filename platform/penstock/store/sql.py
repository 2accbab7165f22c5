"""One text per statement for both databases.

Statements are written with a few marks that each database spells its own way; ``compile_sql`` replaces them once.

- ``:name`` is a parameter.
- ``{in ids}`` after a column: it is one of the list ``:ids`` (pass ``Session.ids``).
- ``{each rows}`` is a source ``r`` with one row per element of the JSON array ``:rows`` (pass ``Session.rows``), whose
  elements are arrays too: ``{2 float}`` is field 2 of the element. So a batch of any size is one parameter, and its
  statement is prepared once.
- ``{skip locked}`` after a SELECT: rows that somebody else works on are passed over, the others locked. On SQLite a
  writer is alone anyway. ``{locked}`` waits for them instead, and ``{shared}`` keeps others from
  deleting them.
- ``{by index}`` after a table makes SQLite take that index. It has no statistics to choose by, and prefers the equality
  of ``state`` over a partial index that has what is asked for, in order. Postgres knows better.
- ``{hidden …}`` around a comparison hides it from the planner. ``state`` is what most statements guard on while they
  find rows by id; an index scan over a whole state instead, chosen on outdated statistics, is a thousand times slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum

from penstock.store.columns import type_of

_MARK = re.compile(
    r"\{(in|each|hidden|by) ([^{}]*)\}|\{(\d+) (text|float|int|bool)\}|\{((?:skip )?locked|shared)\}|(?<!:):([a-z_]+)"
)
_TYPES = {"text": "text", "float": "float8", "int": "int", "bool": "bool"}


class Dialect(Enum):
    """Which database."""

    SQLITE = "sqlite"
    POSTGRES = "postgresql"


def compile_sql(text: str, dialect: Dialect) -> str:
    """The statement as ``dialect`` spells it."""
    spell = _sqlite if dialect is Dialect.SQLITE else _postgres
    return _MARK.sub(spell, text)


def insert_sql(table: str, columns: Sequence[str], tail: str = "") -> Callable[[Dialect, int], str]:
    """A bulk INSERT: so many rows of parameters on SQLite, one JSON parameter ``rows`` on Postgres.

    Each is the fastest way of its database, by a factor of two.
    """

    def spell(dialect: Dialect, rows: int) -> str:
        head = f"INSERT INTO {table} ({', '.join(columns)})"
        if dialect is Dialect.SQLITE:
            row = f"({', '.join('?' for _ in columns)})"
            return f"{head} VALUES {', '.join([row] * rows)} {tail}"
        fields = ", ".join(f"{{{position} {kind}}}" for position, kind in enumerate(map(type_of, columns)))
        return compile_sql(f"{head} SELECT {fields} FROM {{each rows}} {tail}", dialect)  # noqa: S608 - constants only

    return spell


def _sqlite(mark: re.Match[str]) -> str:
    word, rest, position, _, skip, name = mark.groups()
    if name is not None:
        return f":{name}"
    if word == "in":
        return f"IN (SELECT value FROM json_each(:{rest}))"  # noqa: S608 - constants only
    if word == "each":
        return f"json_each(:{rest}) AS r"
    if word == "hidden":
        return f"+{rest}"
    if word == "by":
        return f"INDEXED BY {rest}"
    if skip is not None:
        return ""
    return f"json_extract(r.value, '$[{position}]')"


def _postgres(mark: re.Match[str]) -> str:
    word, rest, position, kind, skip, name = mark.groups()
    if name is not None:
        return f"%({name})s"
    if word == "in":
        return f"= ANY(%({rest})s)"
    if word == "each":
        # The condition always holds. Postgres takes it for a rare one and expects one row instead of a hundred, so that
        # even a plan made on an empty table begins with these rows and finds each job by its id.
        return f"(SELECT value FROM jsonb_array_elements(%({rest})s::jsonb) WHERE value->>'' IS NULL) AS r"  # noqa: S608
    if word == "hidden":
        return f"({_MARK.sub(_postgres, rest)}) IS TRUE"
    if word == "by":
        return ""
    if skip is not None:
        return {"locked": "FOR UPDATE", "shared": "FOR SHARE"}.get(skip, "FOR UPDATE SKIP LOCKED")
    return f"(r.value->>{position})::{_TYPES[kind]}"
