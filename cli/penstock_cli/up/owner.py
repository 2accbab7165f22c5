"""Sees that broker and database belong together, before anything is started that would take messages."""

from __future__ import annotations

from collections.abc import Callable

from penstock.dispatch.ownership import Ownership
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect


def prepare(settings: Settings, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Return when the namespace is this database's. Raises ``NamespaceTaken``.

    Where both are in this home, a database that was removed and made anew has no rival: it takes the namespace.
    """
    store = Store.open(settings.database)
    try:
        with connect(settings.broker) as client:
            ownership = Ownership(settings, store, client)
            if settings.embedded_broker and settings.database_url is None:
                if ownership.take() is not None:
                    say("the database is a new one: what the broker still holds of the old one is dropped")
            else:
                ownership.claim()
    finally:
        store.close()
