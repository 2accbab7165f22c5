"""The statements themselves: how each database spells them, and that they find their rows by an index."""

from __future__ import annotations

import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Table

from penstock.store import (
    Store,
    claims,
    deliveries,
    elastic,
    events,
    producers,
    relay,
    retention,
    runs,
    users,
    workers,
)
from penstock.store.columns import type_of
from penstock.store.sql import Dialect, compile_sql, insert_sql
from penstock.store.tables import Row

MODULES = (claims, deliveries, events, producers, relay, retention, users, workers)
# Every module of a package, so that none is forgotten.
MODULES += tuple(
    import_module(f"{package.__name__}.{found.name}")
    for package in (runs, elastic)
    for found in pkgutil.iter_modules(package.__path__)
)

#: Types of columns, as statements write them.
NAMES = {str: "text", float: "float", int: "int", bool: "bool"}

#: What may read a whole table or sort: workers, slots, models and what is learned of them are few, and so are due
#: deliveries.
SMALL = re.compile(
    r"SCAN (penstock_(worker|model|pipeline|latency|slot|rollout|leader)|json_each|r |due|\(subquery|soonest|CONSTANT)"
    r"|SCAN penstock_job USING INDEX ix_penstock_job_due"  # in order, and ended by LIMIT
    r"|SCAN penstock_job USING (COVERING )?INDEX ix_penstock_job_asked"  # those that are open and ask for a version
    r"|SCAN penstock_job USING (COVERING )?INDEX ix_penstock_job_run"  # those that are open and runs
    r"|SCAN around|SCAN run USING (COVERING )?INDEX ix_penstock_job_run"
    r"|SCAN m USING (COVERING )?INDEX ix_penstock_map_begun"
    r"|SCAN penstock_delivery USING INDEX ix_penstock_delivery_due"
    r"|SCAN penstock_scaling_change USING INDEX sqlite_autoindex"  # in order, and ended by LIMIT
)


def statements() -> Iterator[Any]:
    for module in MODULES:
        for name, value in vars(module).items():
            for key, text in value.items() if isinstance(value, dict) and name.startswith("_") else [("", value)]:
                if isinstance(text, str) and re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)\b", text):
                    yield pytest.param(module, text, id=f"{module.__name__.rpartition('.')[2]}.{name}{key}")


def test_marks_are_spelt_for_each_database() -> None:
    text = "SELECT {1 float} FROM {each rows} JOIN t {by ix} ON id {in ids} AND {hidden s = :s} {skip locked}"
    assert compile_sql(text, Dialect.SQLITE) == (
        "SELECT json_extract(r.value, '$[1]') FROM json_each(:rows) AS r JOIN t INDEXED BY ix"
        " ON id IN (SELECT value FROM json_each(:ids)) AND +s = :s "
    )
    postgres = compile_sql(text, Dialect.POSTGRES)
    assert "(r.value->>1)::float8" in postgres
    assert "id = ANY(%(ids)s) AND (s = %(s)s) IS TRUE FOR UPDATE SKIP LOCKED" in postgres
    assert "INDEXED" not in postgres


def test_a_cast_is_no_parameter() -> None:
    assert compile_sql("SELECT :a::text", Dialect.POSTGRES) == "SELECT %(a)s::text"


def test_a_bulk_insert_is_rows_of_parameters_on_sqlite_and_one_parameter_on_postgres() -> None:
    spell = insert_sql("t", ["path", "size"], "ON CONFLICT DO NOTHING")
    assert spell(Dialect.SQLITE, 1) == "INSERT INTO t (path, size) VALUES (?, ?) ON CONFLICT DO NOTHING"
    assert spell(Dialect.SQLITE, 2) == "INSERT INTO t (path, size) VALUES (?, ?), (?, ?) ON CONFLICT DO NOTHING"
    assert spell(Dialect.POSTGRES, 1).startswith(
        "INSERT INTO t (path, size) SELECT (r.value->>0)::text, (r.value->>1)::int FROM"
    )


@pytest.mark.parametrize("table", Row.metadata.sorted_tables, ids=str)
def test_columns_have_the_types_of_the_schema(table: Table) -> None:
    assert {column.name: type_of(column.name) for column in table.columns} == {
        column.name: NAMES[column.type.python_type] for column in table.columns
    }


@pytest.mark.parametrize(("module", "statement"), [*statements()])
def test_sqlite_finds_rows_by_an_index(sqlite_url: str, module: ModuleType, statement: str) -> None:
    """Without statistics, as in a database that nobody ever analysed."""
    text = compile_sql(statement, Dialect.SQLITE)
    values = dict.fromkeys(re.findall(r":([a-z_]+)", text))
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    connection.close()
    scans = [line for line in plan if line.startswith("SCAN") and not SMALL.match(line)]
    assert not scans, plan
    if module is relay and "ORDER BY" in text:
        assert not [line for line in plan if "TEMP B-TREE" in line], plan


@pytest.mark.parametrize(("module", "statement"), [*statements()])
def test_postgres_finds_rows_by_an_index(postgres_url: str, module: ModuleType, statement: str) -> None:
    """With the settings of our connections, on tables that are empty when the plan is made, for whatever values."""
    from penstock.store import place, postgres

    text = compile_sql(statement, Dialect.POSTGRES)
    names = sorted(set(re.findall(r"%\((\w+)\)s", text)))
    known = {
        "ids": ["x"],
        "urls": ["x"],
        "exclude": ["x"],
        "rows": "[]",
        "ends": True,
        "again": False,
        "alone": True,
        "dead": ["x"],
        "paths": ["x"],
        "names": ["x"],
        "runs": ["x"],
        "digests": ["x"],
        "closing": True,
        "paused": True,
    }
    values: dict[str, Any] = {name: known.get(name, 1) for name in names}
    for column in (
        "id",
        "worker",
        "instance",
        "after",
        "low",
        "high",
        "url",
        "state",
        "name",
        "pool",
        "info",
        "error",
        "batch_reason",
        "tenant",
        "key",
        "lost",
        "quarantined",
        "version",
        "model",
        "input",
        "run",
        "path",
        "high",
        "digest",
        "output",
        "only",
        "holder",
        "lane",
        "fence",
        "place",
        "reason",
        "revision",
        "previous",
        "previous_spec",
        "spec",
    ):
        if column in values:
            values[column] = "x"
    where = place.read(postgres_url)
    assert isinstance(where, place.PostgresDatabase)
    connection: psycopg.Connection[Any] = postgres.connect(where.parameters, durable=True)
    for number, name in enumerate(names, 1):
        text = text.replace(f"%({name})s", f"${number}")
    given = sql.SQL(", ").join(sql.Literal(values[name]) for name in names)
    with connection:
        types = [{bool: "bool", int: "smallint", list: "text[]"}.get(type(values[name]), "unknown") for name in names]
        head = f"PREPARE found ({', '.join(types)})" if names else "PREPARE found"
        connection.execute(f"{head} AS {text}".encode())
        asked = sql.SQL("EXPLAIN EXECUTE found ({})" if names else "EXPLAIN EXECUTE found").format(given)
        plan = "\n".join(row[0] for row in connection.execute(asked).fetchall())
    for table in ("penstock_job", "penstock_job_tag"):
        assert not re.search(rf"Seq Scan on {table}\b", plan), plan
    # Nor by walking through all of them in the order of their ids; `min` and `max` take the first.
    walks = re.findall(r"Index (?:Only )?Scan using pk_penstock_job on [^\n]*\n(?! *Index Cond)", plan)
    assert not walks or "max(id)" in text, plan


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("filters", ["", "status", "model", "tenant", "tag"])
def test_a_list_walks_an_index_by_time(store: Store, filters: str, before: bool) -> None:
    """However many jobs are kept, a page reads no more of them than fit on it (where its filter has an index)."""
    names = {"": [], "status": ["status"], "model": ["model", "asked"], "tenant": ["tenant"], "tag": ["tag"]}[filters]
    where = " AND ".join(users._FILTERS[name] for name in [*names, *(["before"] if before else [])]) or "true"
    text = users._list_sql(where, walk=filters not in ("status", "tag"))
    values = dict.fromkeys(re.findall(r"(?<!:):([a-z_]+)", text), "x") | {"at": 1.0, "limit": 20, "status": "failed"}
    db = store._db
    explain = "EXPLAIN QUERY PLAN " if db.dialect is Dialect.SQLITE else "EXPLAIN "
    with db.read() as session:
        plan = "\n".join(
            str(row[3] if db.dialect is Dialect.SQLITE else row[0]) for row in session.all(explain + text, values)
        )
    assert not re.search(r"SCAN penstock_job\b|Seq Scan on penstock_job\b", plan), plan
    if filters != "tag":
        assert "ix_penstock_job_time" in plan, plan
    if db.dialect is Dialect.SQLITE and filters == "status":
        assert "TEMP B-TREE" not in plan, plan


def test_postgres_plans_once_and_translates_nothing(postgres_url: str) -> None:
    """What reads a table of workers would be machine code first, each time: what is switched off looks enormous."""
    store = Store.open(postgres_url)
    with store._db.read() as session:
        found = session.all("SELECT current_setting('plan_cache_mode'), current_setting('jit')")
    store.close()
    assert found == [("force_generic_plan", "off")]
