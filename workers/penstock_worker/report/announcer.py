"""Tells everybody what happened to a batch: clients, watchers, Flower, and the broker (acknowledgements).

Comes after the commit, never before. All of it is one write per batch on a connection of its own, so the order on
the wire is the order of the facts: received, started, then the outcome and the acknowledgement.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from celery.worker import state as worker_state

from penstock import clock
from penstock.job import JobState
from penstock.lane import task_name
from penstock.settings import ProgressSettings
from penstock.store.records import Within
from penstock.transport import keys
from penstock.transport.claims import settle_arguments
from penstock.transport.progress import Part, tell_command, write_commands
from penstock.transport.scripts import SETTLE
from penstock_worker.item import Item, Run
from penstock_worker.report.celeryevents import CeleryEvents
from penstock_worker.report.meter import Meter
from penstock_worker.report.wire import Command, Wire

_json = msgspec.json.encode

#: Outputs of at most so many bytes of JSON travel with the news; a client reads larger ones from SQL.
INLINE_OUTPUT_BYTES = 16 * 1024
#: With so many commands waiting for the broker, partial output is not added to them.
MOST_KEPT = 20_000


class Announcer:
    """News of plain jobs and canvas members; Celery events of plain jobs only (Celery sends the others')."""

    def __init__(
        self, wire: Wire, *, namespace: str, worker: str, events: CeleryEvents | None, meter: Meter | None = None
    ) -> None:
        self._wire = wire
        self._namespace = namespace
        self._worker = worker
        self._celery = events
        #: Counts for the metrics, where there are any.
        self.meter = meter
        #: Whether Celery's monitors hear of plain jobs: `enable_events` and `disable_events` switch it.
        self.tells_monitors = True
        self._events_channel = keys.events(namespace)
        self.pid = os.getpid()

    def received(self, items: Sequence[Item]) -> None:
        """Plain items came in."""
        if self._celery is not None and self.tells_monitors:
            self._wire.send([self._celery.received(items, self._task)])

    def started(self, run: Run, also: Sequence[Command] = (), *, soon_over: bool = False) -> None:
        """A batch goes onto the device; ``also`` is written with the news.

        The device waits while they are written. Those of a batch that is ``soon_over`` go with its end.
        """
        live = run.live
        # What Celery's heartbeats and `inspect stats` report; it counts the others itself.
        plain = [item for item in live if item.request is None]
        worker_state.total_count.update({self._task(run.batch.model.name): len(plain)})
        worker_state.all_total_count[0] += len(plain)
        news: list[Command] = [
            self._event(JobState.RUNNING, run.batch.model.name, [i.id for i in live], run.started_at)
        ]
        if self._celery is not None and self.tells_monitors and plain:
            news.append(self._celery.started(plain))
        news += also
        if soon_over:
            self._wire.hold(news)
        else:
            self._wire.send(news)

    def settled(self, settled: Sequence[Any], outputs: Mapping[str, str | None], runs: Sequence[Run]) -> list[Command]:
        """Commands for committed outcomes: clients' results first, then watchers, then Flower."""
        if self.meter is not None:
            self.meter.settled(settled, runs)
        now = clock.now()
        replies: dict[str, list[str]] = {}
        states: dict[str, dict[JobState, list[str]]] = {}
        final: dict[str, Any] = {}
        model_of = {item.id: run.batch.model.name for run in runs for item in run.live}
        for row in settled:
            final[row.id] = row
            states.setdefault(model_of.get(row.id) or row.model, {}).setdefault(row.state, []).append(row.id)
            if row.reply_to and row.state.is_terminal:
                # A run that has ended with one of its steps brings its own output.
                text = outputs.get(row.id, row.output)
                replies.setdefault(row.reply_to, []).append(record(row, text))
        news: list[Command] = [
            ("PUBLISH", keys.reply(self._namespace, client), f"[{','.join(records)}]")
            for client, records in replies.items()
        ]
        for model, by_state in states.items():
            news += [self._event(state, model, ids, now) for state, ids in by_state.items()]
        # Where nobody shared its queue, the claim has charged nothing; and Celery acknowledges members by themselves.
        alone_s: dict[str, float] = {}
        for run in runs:
            for item in run.live:
                if not item.charged or item.request is not None:
                    alone_s[item.tenant] = alone_s.get(item.tenant, 0.0) + item.device_s
        for tenant, seconds in alone_s.items():
            if not seconds:
                continue
            news.append(("HINCRBYFLOAT", keys.used(self._namespace), tenant, f"{seconds:.9f}"))
        if self._celery is not None and self.tells_monitors:
            news += self._celery.finished(runs, final, outputs)
        return news

    def dropped(self, items: Iterable[Item]) -> list[Command]:
        """Monitors were told that these came in, and will not hear of them again: they ended without running."""
        ended = {
            item.id: item.ended
            for item in items
            if item.request is None and item.ended in (JobState.CANCELLED, JobState.EXPIRED)
        }
        return [self._celery.revoked(ended)] if ended and self._celery is not None and self.tells_monitors else []

    def changed(self, jobs: Sequence[Any]) -> None:
        """Jobs that somebody cancelled through this worker: ended, or still to be stopped by who runs them."""
        news = self.settled([job for job in jobs if job.state.is_terminal], {}, [])
        now = clock.now()
        news += [self._event("cancelling", job.model, [job.id], now) for job in jobs if not job.state.is_terminal]
        self._wire.send(news)

    def progress(self, model: str, entries: Sequence[tuple[Item, int, str]], kept: ProgressSettings) -> None:
        """Partial output: item, index in its attempt, JSON text. Kept while the broker is away, within bounds: what is
        lost beyond them shows to readers as missed."""
        now = clock.now()
        commands: list[Command] = []
        parts: list[tuple[Within, Part, str]] = []
        for item, index, text in entries:
            if item.within is not None:
                parts.append((item.within, Part(item.within.path, item.id, item.attempt, index), text))
            else:
                commands += write_commands(
                    self._namespace, item.id, item.attempt, index, text, at=now, keep=kept.keep, ttl_s=kept.ttl_s
                )
        if parts:
            commands.append(tell_command(self._namespace, parts, at=now, keep=kept.keep, ttl_s=kept.ttl_s))
        runs = {within.run: None for within, _, _ in parts}
        commands.append(self._event("progress", model, [*(item.id for item, _, _ in entries), *runs], now))
        if self._wire.kept < MOST_KEPT:
            self._wire.send((), commands)
        else:
            self._wire.send(commands)

    def acks(self, items: Iterable[Item]) -> list[Command]:
        """Commands that acknowledge messages, and charge tenants what the claim's guess has left out.

        Removing a tag twice, or one whose lease was lost, does nothing.
        """
        tags: dict[str, list[Any]] = {}
        spent: dict[str, dict[Any, float]] = {}
        for item in items:
            if item.charged:
                spent.setdefault(item.source, {})[item.tag] = item.device_s
            else:
                tags.setdefault(item.source, []).append(item.tag)
        return [("HDEL", source, *fields) for source, fields in tags.items()] + [
            # The text, not its digest: an acknowledgement must not fail for a server that has forgotten the script.
            ("EVAL", SETTLE.text, len(names), *names, *args)
            for names, args in (settle_arguments(self._namespace, source, pairs) for source, pairs in spent.items())
        ]

    def send(self, news: Sequence[Command], acks: Sequence[Command] = ()) -> None:
        """Write them; acknowledgements are kept until they arrive."""
        self._wire.send(news, acks)

    def _event(self, state: str, model: str, ids: Sequence[str], at: float) -> Command:
        event = {"state": state, "ids": ids, "model": model, "at": at, "worker": self._worker}
        return ("PUBLISH", self._events_channel, _json(event))

    def _task(self, model: str) -> str:
        return task_name(self._namespace, model)


def record(row: Any, output: str | None) -> str:
    """One result as its client hears it, JSON text. The output is left out when it is long."""
    parts = [f'{{"id":"{row.id}","state":"{row.state.value}","attempt":{row.attempt}']
    if row.state is JobState.SUCCEEDED:
        if output is not None and len(output) <= INLINE_OUTPUT_BYTES:
            parts.append(f',"output":{output}')
    elif row.error is not None:
        parts.append(f',"error":{row.error if isinstance(row.error, str) else _json(row.error).decode()}')
    return "".join(parts) + "}"
