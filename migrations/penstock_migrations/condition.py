"""What is there of the schema: the version that was written down, and what the tables say themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from penstock.store.engine import VERSION_TABLE
from penstock.store.tables import Row


@dataclass(frozen=True, slots=True)
class Condition:
    """``version`` is ``None`` where none is written down. ``tables`` are ours that are there; ``lost`` is what the
    newest version has and the database has not, by name."""

    version: str | None = None
    tables: frozenset[str] = frozenset()
    lost: tuple[str, ...] = field(default=())


def look(connection: Connection) -> Condition:
    """The condition of a database; changes nothing."""
    # Several rows are as good as none: nothing of ours writes them.
    heads = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    found = inspect(connection)
    there = set(found.get_table_names())
    lost: list[str] = []
    for table in Row.metadata.sorted_tables:
        if table.name not in there:
            lost.append(f"the table {table.name}")
            continue
        columns = {column["name"] for column in found.get_columns(table.name)}
        lost += [f"the column {table.name}.{column.name}" for column in table.columns if column.name not in columns]
    ours = frozenset(table.name for table in Row.metadata.sorted_tables if table.name in there)
    return Condition(heads[0] if len(heads) == 1 else None, ours, tuple(lost))
