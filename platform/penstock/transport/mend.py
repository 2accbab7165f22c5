"""Repairs what somebody has broken at the broker: a key of another type, text where a number should be.

Nothing is checked beforehand: the scripts read what they can of a malformed text, and what Redis refuses because of it
(``refusals.malformed``) has the keys looked through once and the call made again. What cannot be repaired is renamed to
``{ns}:aside:{key}`` and kept for a day. Messages that are lost by it are in SQL: the reconciler sends them again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import redis

from penstock.clock import monotonic_s
from penstock.transport import keys
from penstock.transport.refusals import malformed
from penstock.transport.wire import Arg, Wire

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long what was set aside is kept, seconds.
ASIDE_S = 86400
#: Lease of consumers whose own was lost, seconds.
LEASE_S = 30
#: All keys are looked through this often at most, seconds: it takes long where there are many.
EVERY_S = 1.0
#: Keys per command.
PAGE = 500

_lock = threading.Lock()
_last: dict[tuple[str, str], tuple[float, bool]] = {}


def mend(client: redis.Redis, namespace: str) -> bool:
    """Look through all keys of a namespace; whether any was broken, now or just before. Says what it has done."""
    place = (str(client.connection_pool.connection_kwargs.get("path") or client.connection_pool), namespace)
    with _lock:
        at, found = _last.get(place, (-EVERY_S, False))
        if monotonic_s() - at < EVERY_S:
            return found
        names = (key.decode(errors="replace") for key in client.scan_iter(f"{namespace}[.:]*", PAGE))
        done = mend_keys(client, namespace, names)
        _last[place] = (monotonic_s(), bool(done))
        return bool(done)


def mend_keys(client: redis.Redis, namespace: str, names: Iterable[str]) -> dict[str, str]:
    """Look at these keys; what was done to which."""
    from penstock.transport.scripts import MEND  # the scripts are sent through the wire, which mends

    done: dict[str, str] = {}
    known = ((name, form) for name in names if (form := keys.form_of(namespace, name)) is not None)
    while page := list(islice(known, PAGE)):
        args: list[Arg] = [keys.aside_prefix(namespace), ASIDE_S, *(part for _, form in page for part in form)]
        answer = MEND(Wire(client), [name for name, _ in page], args)
        done |= {key.decode(): what.decode() for key, what in zip(answer[::2], answer[1::2], strict=True)}
    if keys.consumers(namespace) in done:
        _revive(client, namespace)
    if done:
        log.warning("malformed keys at the broker: %s", "; ".join(f"{key}: {what}" for key, what in done.items()))
    return done


def _revive(client: redis.Redis, namespace: str) -> None:
    """Who holds messages gets a lease again: without one, nobody would ever put them back."""
    prefix = keys.unacked_prefix(namespace)
    seconds, _ = client.time()
    ends = {key[len(prefix) :]: seconds + LEASE_S for key in client.scan_iter(f"{prefix}*", PAGE)}
    if ends:
        client.zadd(keys.consumers(namespace), ends)


def mended(client: redis.Redis, namespace: str, call: Callable[[], T]) -> T:
    """What ``call`` returns; it is made again when a broken key was in its way and could be repaired."""
    try:
        return call()
    except redis.ResponseError as error:
        if not malformed(error) or not mend(client, namespace):
            raise
    return call()


def number(text: Any, default: float = 0.0) -> float:
    """A number as it stands at the broker; ``default`` for what is none. PURE."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return default
    return value if abs(value) < float("inf") else default
