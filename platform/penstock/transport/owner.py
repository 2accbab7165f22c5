"""Whose a namespace is: the database that its jobs are in, written down at the broker.

Two deployments with one namespace and different databases would take each other's messages. The mark is set where there
is none, by whoever comes first (after ``FLUSHALL``, too), and changed by a person's word only.
"""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from penstock.transport import keys

_encode = msgspec.json.encode


class Owner(msgspec.Struct, frozen=True):
    """A database: its identity, where it was when it took the namespace, and since when (Unix seconds)."""

    database: str
    where: str = ""
    since: float = 0.0


_owner = msgspec.json.Decoder(Owner)


def owner(client: redis.Redis, namespace: str) -> Owner | None:
    """Whose it is; ``None``: nobody's."""
    return _read(client, keys.owner(namespace))


def claim(client: redis.Redis, namespace: str, mine: Owner) -> Owner:
    """Take it if it is nobody's. Whose it is now."""
    key = keys.owner(namespace)
    if (found := _read(client, key)) is not None:  # a server that is full, or has lost its replicas, lets us look
        return found
    client.set(key, _encode(mine), nx=True)
    found = _read(client, key)
    if found is None:  # lost again in between, or what stands there is no mark
        take(client, namespace, mine)
        return mine
    return found


def take(client: redis.Redis, namespace: str, mine: Owner) -> None:
    """Take it, whoever had it."""
    client.set(keys.owner(namespace), _encode(mine))


def _read(client: redis.Redis, key: str) -> Owner | None:
    try:
        text: Any = client.get(key)
        return None if text is None else _owner.decode(text)
    except (redis.ResponseError, msgspec.MsgspecError) as error:
        if isinstance(error, redis.ResponseError) and "WRONGTYPE" not in str(error):
            raise
        return None
