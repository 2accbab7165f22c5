"""Queues that hold messages, whoever they are for: those of models, and those that Celery's programs have made known.

Nobody keeps a list of all queues. kombu writes down the bindings of those that were declared, which every producer of
Celery's does, runs those to which they have sent plain tasks, and ours begin with the namespace. The search is bounded
in time: in very large data it may miss some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from penstock.clock import monotonic_s
from penstock.transport import keys
from penstock.transport.inspect import PAGE, ready
from penstock.transport.refusals import Refused

#: How kombu's keys of bindings begin, and what parts their members: routing key, pattern, queue.
BINDINGS, PART = "_kombu.binding.", "\x06\x16"

#: Queues of Celery's own: replies to remote control, and events.
_OF_CELERY = (".pidbox", "celeryev")

#: Longest search for each kind of key, seconds.
SEARCH_S = 1.0


def holding(client: redis.Redis, namespace: str) -> dict[str, int]:
    """Ready messages of every queue that was found to have some."""
    ours = {keys.queue_of(key) for key in _scan(client, f"{namespace}.*", type="list")}
    names = {name for name in _bound(client) if name and not any(part in name for part in _OF_CELERY)}
    names |= _sent(client, namespace)
    own = {keys.returns(namespace)}  # the dispatcher's
    counts = ready(client, namespace, sorted(ours - own))
    for name in sorted(names - ours - own):
        try:
            counts |= ready(client, namespace, [name])
        except Refused as refused:
            if refused.code != "NOPERM":  # this user may not look into it, nor send there
                raise
    return {queue: count for queue, count in counts.items() if count}


def _bound(client: redis.Redis) -> Iterator[str]:
    for key in _scan(client, f"{BINDINGS}*", type="set"):
        members: Any = client.smembers(key)
        for member in members:
            yield member.decode(errors="replace").rpartition(PART)[2]


def _sent(client: redis.Redis, namespace: str) -> set[str]:
    members: Any = client.smembers(keys.task_queues(namespace))
    return {keys.queue_of(member.decode(errors="replace")) for member in members}


def _scan(client: redis.Redis, pattern: str, *, type: str) -> Iterator[str]:
    until, cursor = monotonic_s() + SEARCH_S, 0
    while True:
        page: Any = client.scan(cursor, pattern, PAGE, _type=type)
        cursor, found = int(page[0]), page[1]
        yield from (key.decode(errors="replace") for key in found)
        if cursor == 0 or monotonic_s() > until:
            return
