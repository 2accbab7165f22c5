"""Celery results, written once per batch.

A Redis result backend whose writes can be gathered: inside ``bulk()`` every stored result is kept back and goes out
in one pipelined round trip at the end. Outside of it, and in every other process, it is Celery's own backend.
Use it as ``penstock+redis://…``; registered as the entry point ``celery.result_backends: penstock``.
"""

# The published type stubs leave out what is inside Celery's backend, which this module extends.
# mypy: disable-error-code="attr-defined, misc"

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery.backends.redis import RedisBackend

from penstock.transport.refusals import refuse

SCHEME = "penstock+"


def bulk_url(url: str) -> str:
    """The URL that selects this backend; other backends than Redis are left alone."""
    scheme, _, rest = url.partition("://")
    if scheme == "redis+socket":
        return f"{SCHEME}socket://{rest}"
    return SCHEME + url if scheme in {"redis", "rediss"} else url


class BulkRedisBackend(RedisBackend):
    """Celery's Redis backend with ``bulk()``.

    A thread's pending results are invisible to all others until it leaves the block; the thread itself reads them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = threading.local()

    def _create_client(self, **params: Any) -> Any:
        """What is refused for the time being is a lost connection, as Celery knows it: it tries again."""
        return refuse(super()._create_client(**params))

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Gather this thread's results; they are written when the block ends, also when it raises."""
        self._pending.results = {}
        try:
            yield
        finally:
            try:
                self.flush()
            finally:
                self._pending.results = None

    def flush(self) -> None:
        """Write what was gathered; what cannot be written stays, so that the end of the block says so."""
        results = getattr(self._pending, "results", None)
        if not results:
            return
        # Tried again for as long as Celery itself would, by the policy in `result_backend_transport_options`.
        self.ensure(self._write, (results,))
        results.clear()

    def _write(self, results: Mapping[Any, tuple[Any, Any]]) -> None:
        # Not a transaction: each SET stands alone, and the PUBLISH behind it only wakes who waits.
        with self.client.pipeline(transaction=False) as pipe:
            for key, (value, expires) in results.items():
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
            results[key] = value, expires

    def get(self, key: Any) -> Any:
        """Celery looks at what is stored before it writes, and before it counts what a failed chain leaves behind."""
        results = getattr(self._pending, "results", None)
        if results and key in results:
            return results[key][0]
        return super().get(key)

    def mget(self, keys: Any) -> Any:
        """Several at once: written first."""
        self.flush()
        return super().mget(keys)

    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """Count a chord's part, after its result is visible.

        What Celery itself stores meanwhile (the failure of a chord's body, say) is written at once: it reads it back in
        the same call, to revoke only those members that have not ended.
        """
        with self._at_once():
            super().on_chord_part_return(request, state, result, *args, **kwargs)

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        """An error callback is given an id, and reads what became of it: its failure is visible first."""
        with self._at_once():
            super()._call_task_errbacks(request, exc, traceback)

    def _save_group(self, group_id: Any, result: Any) -> Any:
        """Whoever ends the last of the group's members restores it, perhaps before this batch is over."""
        with self._at_once():
            return super()._save_group(group_id, result)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Write what was gathered, and inside the block everything when it comes."""
        self.flush()
        results, self._pending.results = getattr(self._pending, "results", None), None
        try:
            yield
        finally:
            self._pending.results = results
