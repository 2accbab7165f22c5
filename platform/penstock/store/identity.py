"""Who this database is, wherever it lies: made once, kept in backups."""

from __future__ import annotations

from uuid import uuid4

from penstock.store.engine import Database, Survives

_FIND = "SELECT value FROM penstock_meta WHERE name = 'identity'"
# Several may begin at the same moment: the first one's stays.
_MAKE = "INSERT INTO penstock_meta (name, value) VALUES ('identity', :value) ON CONFLICT DO NOTHING"


def identity(db: Database) -> str:
    """See ``Store.identity``."""
    with db.read() as session:
        row = session.one(_FIND)
    if row is not None:
        return str(row[0])

    def make() -> str:
        with db.write(Survives.POWER) as session:
            session.run(_MAKE, {"value": uuid4().hex})
            row = session.one(_FIND)
        assert row is not None
        return str(row[0])

    return db.again(make)
