"""Whether the broker's namespace is that of our database: asked before anything is consumed or published there."""

from __future__ import annotations

import redis

from penstock import clock
from penstock.errors import NamespaceTaken
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import owner
from penstock.transport.owner import Owner
from penstock.transport.url import parse, unavailable


class Ownership:
    """One process's view. Thread-safe: each call is a look of its own, and the last one counts."""

    def __init__(self, settings: Settings, store: Store, client: redis.Redis) -> None:
        self._url = settings.broker
        self._namespace = settings.namespace
        self._store = store
        self._client = client
        self._mine: Owner | None = None
        self._ours = False

    def claim(self) -> None:
        """Take the namespace if it is nobody's: for who consumes or relays.

        Raises ``NamespaceTaken``, ``BrokerUnavailable`` or ``StoreUnavailable``.
        """
        mine = self._identity()
        try:
            found = owner.claim(self._client, self._namespace, mine)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        self._judge(found)

    def compare(self) -> None:
        """The same without taking it: for who only sends or looks, perhaps with wrong settings."""
        mine = self._identity()
        try:
            found = owner.owner(self._client, self._namespace) or mine
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        self._judge(found)

    def confirm(self) -> None:
        """``claim`` unless the last look has found it ours."""
        if not self._ours:
            self.claim()

    def take(self) -> Owner | None:
        """Take it, whoever has it; the one before, if it was another."""
        mine = self._identity()
        try:
            before = owner.owner(self._client, self._namespace)
            owner.take(self._client, self._namespace, mine)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        self._ours = True
        return None if before is None or before.database == mine.database else before

    def _identity(self) -> Owner:
        if self._mine is None:
            self._mine = Owner(self._store.identity(), self._store.where, clock.now())
        return self._mine

    def _judge(self, found: Owner) -> None:
        mine = self._identity()
        self._ours = found.database == mine.database
        if not self._ours:
            raise NamespaceTaken(
                f"the namespace {self._namespace!r} at the broker {parse(self._url)} belongs to another database:"
                f" {found.where or found.database}, not {mine.where}",
                fix="set another PENSTOCK_NAMESPACE, or name another Redis database in PENSTOCK_BROKER_URL; if that"
                " database is gone for good, `penstock db take-over`",
            )
