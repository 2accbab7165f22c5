"""Celery's task events for plain jobs, many in one message.

Celery's own dispatcher builds and publishes event by event and may only be used from the hub thread. Monitors also
accept a list in one message (routing key ``task.multi``), which is what this writes, on the worker's own wire.
The message's outer form is kombu's for a fanout exchange on Redis: ``/{db}.celeryev/task.multi``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.clock import now
from penstock.errors import safe_text
from penstock.job import JobState
from penstock_worker.item import Item, Run
from penstock_worker.report.wire import Command

_json = msgspec.json.encode

#: Monitors show the beginning of arguments and results, characters.
SHOWN = 64


class _Received(msgspec.Struct, gc=False, tag_field="type", tag="task-received"):
    uuid: str
    name: str
    args: str
    timestamp: float
    local_received: float
    hostname: str
    utcoffset: int
    pid: int
    clock: int
    kwargs: str = "{}"
    root_id: str | None = None
    parent_id: str | None = None
    retries: int = 0
    eta: str | None = None
    expires: str | None = None


class _Started(msgspec.Struct, gc=False, tag_field="type", tag="task-started"):
    uuid: str
    timestamp: float
    hostname: str
    utcoffset: int
    pid: int
    clock: int


class _Succeeded(msgspec.Struct, gc=False, tag_field="type", tag="task-succeeded"):
    uuid: str
    result: str
    runtime: float
    timestamp: float
    hostname: str
    utcoffset: int
    pid: int
    clock: int


class CeleryEvents:
    """Builds the messages; ``tick`` is the app's logical clock (``app.clock.forward``)."""

    def __init__(self, *, hostname: str, db: int, tick: Callable[[], int], exchange: str = "celeryev") -> None:
        self._hostname = hostname
        self._tick = tick
        self._pid = os.getpid()
        self._utcoffset = time.timezone // 3600
        self._channel = f"/{db}.{exchange}/task.multi"
        self._tail = (
            b',"content-encoding":"utf-8","content-type":"application/json","headers":'
            + _json({"hostname": hostname})
            + b',"properties":{"delivery_mode":1,"delivery_info":{"exchange":'
            + _json(exchange)
            + b',"routing_key":"task.multi"},"priority":0,"body_encoding":"utf-8","delivery_tag":"0"}}'
        )

    def received(self, items: Sequence[Item], task: Callable[[str], str]) -> Command:
        """``task-received`` of these items."""
        at, host, off, pid, clock = now(), self._hostname, self._utcoffset, self._pid, self._tick()
        return self._message(
            [_Received(i.id, task(i.model), shown_args(i.input), at, at, host, off, pid, clock) for i in items]
        )

    def started(self, items: Sequence[Item]) -> Command:
        """``task-started`` of these items."""
        at, host, off, pid, clock = now(), self._hostname, self._utcoffset, self._pid, self._tick()
        return self._message([_Started(i.id, at, host, off, pid, clock) for i in items])

    def finished(
        self, runs: Iterable[Run], final: Mapping[str, Any], outputs: Mapping[str, str | None]
    ) -> list[Command]:
        """How each plain item of these runs ended, as SQL decided."""
        at, host, off, pid, clock = now(), self._hostname, self._utcoffset, self._pid, self._tick()
        events: list[Any] = []
        for run in runs:
            for item in run.live:
                row = final.get(item.id)
                if item.request is not None or row is None:
                    continue
                if row.state is JobState.SUCCEEDED:
                    result = (outputs.get(item.id) or "null")[:SHOWN]
                    events.append(_Succeeded(item.id, result, run.compute_s, at, host, off, pid, clock))
                else:
                    common = {"uuid": item.id, "timestamp": at, "hostname": host, "utcoffset": off, "pid": pid}
                    events.append(_other(item, row.state) | common | {"clock": clock})
        return [self._message(events)] if events else []

    def revoked(self, states: Mapping[str, JobState | None]) -> Command:
        """``task-revoked`` of jobs that ended in these states."""
        at, host, off, pid, clock = now(), self._hostname, self._utcoffset, self._pid, self._tick()
        common = {"timestamp": at, "hostname": host, "utcoffset": off, "pid": pid, "clock": clock}
        return self._message([_revoked(state) | {"uuid": id} | common for id, state in states.items()])

    def _message(self, events: Sequence[Any]) -> Command:
        body = _json(_json(events).decode())
        return ("PUBLISH", self._channel, b'{"body":' + body + self._tail)


def _other(item: Item, state: JobState) -> dict[str, Any]:
    error = f"{type(item.error).__name__}({safe_text(item.error)!r})" if item.error is not None else ""
    if state is JobState.FAILED:
        return {"type": "task-failed", "exception": error, "traceback": ""}
    if state is JobState.ACCEPTED:
        return {"type": "task-retried", "exception": error, "traceback": ""}
    return _revoked(state)


def _revoked(state: JobState | None) -> dict[str, Any]:
    return {"type": "task-revoked", "terminated": False, "signum": None, "expired": state is JobState.EXPIRED}


def shown_args(input: str | None) -> str:
    """The arguments as monitors show them."""
    if input is None:
        return "(…)"
    return f"({input},)" if len(input) <= SHOWN else f"({input[:SHOWN]}...,)"
