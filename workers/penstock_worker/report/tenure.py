"""That the broker's namespace is our database's: asked at the start, and at each heartbeat, since a wipe forgets it."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from penstock.dispatch.ownership import Ownership
from penstock.errors import NamespaceTaken, Unreachable
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect

log = structlog.get_logger(__name__)


class Tenure:
    """``lost`` is told, once, that another database has taken the namespace: this process must consume no more."""

    def __init__(self, settings: Settings, store: Store, *, lost: Callable[[NamespaceTaken], None]) -> None:
        self._client = connect(settings.broker)
        self._ownership = Ownership(settings, store, self._client)
        self._lost: Callable[[NamespaceTaken], None] | None = lost

    def begin(self) -> None:
        """Raise ``NamespaceTaken`` if it is another's. With a server away, the heartbeat asks again."""
        try:
            self._ownership.claim()
        except NamespaceTaken:
            raise
        except Unreachable as error:
            log.debug("whose the namespace is cannot be asked", action="worker.tenure", error=error.message)

    def keep(self) -> None:
        """Look again."""
        try:
            self.begin()
        except NamespaceTaken as error:
            lost, self._lost = self._lost, None
            if lost is not None:
                log.error("stopping", action="worker.namespace_taken", error=error.message, fix=error.fix)
                lost(error)

    def end(self) -> None:
        """Close the connection."""
        self._client.close()
