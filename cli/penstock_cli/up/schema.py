"""Brings the schema up to date: that of our own SQLite file always, another database's only when asked."""

from __future__ import annotations

from collections.abc import Callable

from penstock import private
from penstock.errors import SchemaOutdated
from penstock.settings import Settings


def prepare(settings: Settings, *, migrate: bool, say: Callable[[str], None] = lambda line: None) -> None:
    """Return when the database answers and its schema is current.

    Raises ``StoreUnavailable``, or ``SchemaOutdated`` for a database that is not ours to change.
    """
    from penstock.store import Store

    store = Store.open(settings.database)
    try:
        store.check()
        return
    except SchemaOutdated as error:
        if settings.database_url is not None and not migrate:
            raise SchemaOutdated(
                error.message, fix="`penstock up --migrate` or `penstock db upgrade` brings it up to date"
            ) from error
    finally:
        store.close()
    upgrade(settings)
    if settings.database_url is not None:
        say("database schema brought up to date")


def upgrade(settings: Settings) -> None:
    """Run the migrations."""
    import penstock_migrations

    if settings.database_url is None:
        private.tighten(private.folder(settings.home))
    penstock_migrations.upgrade(settings.database)
