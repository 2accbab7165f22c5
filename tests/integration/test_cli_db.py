"""``penstock db`` on schemas that are not what they should be: what is wrong, and what helps."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.fixtures.cli import Penstock


@pytest.mark.parametrize("elsewhere", [False, True], ids=["home", "url"])
@pytest.mark.parametrize(
    ("statement", "says", "fix"),
    [
        ("UPDATE penstock_alembic_version SET version_num = '9999'", "version 9999", "install the penstock"),
        ("DELETE FROM penstock_alembic_version", "no version", "from a backup"),
        ("DROP TABLE penstock_delivery", "lacks the table penstock_delivery", "from a backup"),
    ],
)
def test_a_schema_that_is_not_whole(penstock: Penstock, statement: str, says: str, fix: str, elsewhere: bool) -> None:
    path = penstock.folder / "my.db" if elsewhere else penstock.home / "penstock.db"
    env = {"PENSTOCK_DATABASE_URL": f"sqlite:///{path}"} if elsewhere else {}
    assert penstock("db", "current", env=env).status == 3
    assert not path.exists(), "looking makes no database"
    assert penstock("db", "upgrade", env=env).status == 0
    assert path.stat().st_mode & 0o077 == 0
    assert penstock("db", "current", env=env).status == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    for command in ("upgrade", "current"):
        ended = penstock("db", command, env=env)
        assert ended.status == 3, ended.err
        assert says in ended.err and fix in ended.err and "report" not in ended.err, ended.err
    checked = penstock("doctor", env=env | {"PENSTOCK_BROKER_URL": "redis://127.0.0.1:1"}).out
    assert says in checked or "no version" in checked or "version 9999" in checked
