"""Celery results, written once per batch.

A Redis result backend whose writes can be gathered: inside ``bulk()`` every stored result is kept back and goes out
in one pipelined round trip at the end. Outside of it, and in every other process, it is Celery's own backend.
Use it as ``penstock+redis://…``; registered as the entry point ``celery.result_backends: penstock``.
"""

# The published type stubs leave out what is inside Celery's backend, which this module extends.
# mypy: disable-error-code="attr-defined, misc"

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.backends.redis import RedisBackend

SCHEME = "penstock+"


def bulk_url(url: str) -> str:
    """The URL that selects this backend; other backends than Redis are left alone."""
    scheme, _, rest = url.partition("://")
    if scheme == "redis+socket":
        return f"{SCHEME}socket://{rest}"
    return SCHEME + url if scheme in {"redis", "rediss"} else url


class BulkRedisBackend(RedisBackend):
    """Celery's Redis backend with ``bulk()``. A thread's pending results are invisible until it leaves the block."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = threading.local()

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Gather this thread's results; they are written when the block ends, also when it raises."""
        self._pending.results = []
        try:
            yield
        finally:
            try:
                self.flush()
            finally:
                self._pending.results = None

    def flush(self) -> None:
        """Write what was gathered. A chord's part calls this first: its result must exist before it is counted."""
        results = getattr(self._pending, "results", None)
        if not results:
            return
        self._pending.results = []
        # Tried again for as long as Celery itself would, by the policy in `result_backend_transport_options`.
        self.ensure(self._write, (results,))

    def _write(self, results: list[tuple[Any, Any, Any]]) -> None:
        # Not a transaction: each SET stands alone, and the PUBLISH behind it only wakes who waits.
        with self.client.pipeline(transaction=False) as pipe:
            for key, value, expires in results:
                pipe.set(key, value, ex=expires or None)
                pipe.publish(key, value)
            pipe.execute()

    def _set(self, key: Any, value: Any, *own: Any) -> None:
        # From Celery 5.7 on, failures may have an expiry of their own; `None` is the backend's.
        results = getattr(self._pending, "results", None)
        if results is None:
            super()._set(key, value, *own)
        else:
            expires = own[0] if own and own[0] is not None else self.expires
            results.append((key, value, expires))

    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """Count a chord's part, after its result is visible.

        What Celery itself stores meanwhile (the failure of a chord's body, say) is written at once: it reads it back in
        the same call, to revoke only those members that have not ended.
        """
        self.flush()
        results, self._pending.results = getattr(self._pending, "results", None), None
        try:
            super().on_chord_part_return(request, state, result, *args, **kwargs)
        finally:
            self._pending.results = results
