"""Whether the broker answers."""

from __future__ import annotations

import redis

from penstock.dispatch.ownership import Ownership
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect, unavailable

#: How long a server is waited for, seconds: longer than a busy machine takes, and short for a person.
ANSWER_S = 2.0


def check_broker(settings: Settings) -> None:
    """Raise ``BrokerUnavailable`` unless the broker answers within two seconds."""
    client = connect(settings.broker, timeout_s=ANSWER_S)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise unavailable(settings.broker, error) from error
    finally:
        client.close()


def check_owner(settings: Settings, store: Store) -> None:
    """Raise ``NamespaceTaken`` if what is at the broker belongs to another database."""
    with connect(settings.broker, timeout_s=ANSWER_S) as client:
        Ownership(settings, store, client).compare()
