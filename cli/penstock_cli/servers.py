"""Whether the broker answers."""

from __future__ import annotations

import redis

from penstock.dispatch.ownership import Ownership
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect, unavailable


def check_broker(settings: Settings) -> None:
    """Raise ``BrokerUnavailable`` unless the broker answers within a second."""
    client = connect(settings.broker, timeout_s=1.0)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise unavailable(settings.broker, error) from error
    finally:
        client.close()


def check_owner(settings: Settings, store: Store) -> None:
    """Raise ``NamespaceTaken`` if what is at the broker belongs to another database."""
    with connect(settings.broker, timeout_s=1.0) as client:
        Ownership(settings, store, client).compare()
