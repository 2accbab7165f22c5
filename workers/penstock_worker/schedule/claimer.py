"""The first step of a run: which of the batch's items are ours to execute. SQL decides.

A message can be older than the truth: its job may have been cancelled, may be overdue, may run elsewhere because the
message was delivered twice, or may have ended already. Everything that is not claimed is answered for here, so that
no message stays unacknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from celery.worker import state as worker_state

from penstock import clock
from penstock.errors import InvalidInput, NotStarted, NoValue
from penstock.job import Job, JobState, Outcome
from penstock.store import Store
from penstock_worker.canvas import revoked
from penstock_worker.item import INFINITY, Batch, Item, Run

log = structlog.get_logger(__name__)

#: A claim that was made ahead is looked at again when it is older than this, seconds.
CLAIM_KEEPS_S = 0.1
#: States of a job that nobody has started.
UNSTARTED = (JobState.ACCEPTED, JobState.QUEUED)


class Claimer:
    """``insist`` repeats a call while the database is away; ``dismiss`` acknowledges messages that will not run."""

    def __init__(
        self,
        store: Store,
        *,
        worker: str,
        insist: Callable[[Callable[[], Any]], Any],
        dismiss: Callable[[Sequence[Item], Sequence[Any]], None],
    ) -> None:
        self._store = store
        self._worker = worker
        self._insist = insist
        self._dismiss = dismiss

    def __call__(self, batch: Batch) -> Run:
        """The batch with the items that this worker now holds a claim on."""
        run = Run(batch)
        now = clock.now()
        items, dropped, cancelled = self._sort(batch)
        if items:
            self._claim(run, items, dropped, cancelled, now)
        elif dropped:
            self._dismiss(dropped, [])
        return run

    def answer(self, batch: Batch) -> Run:
        """The same for items that are not to run any more, since their deadlines have passed.

        Where SQL knows of a later deadline (somebody has run the job again), or its clock is behind, the item is among
        the ``suspects`` of the run: it goes back into the waiting room.
        """
        run = Run(batch)
        items, dropped, cancelled = self._sort(batch)
        result = self._insist(partial(self._store.end_expired, list(items), now=clock.now()))
        for item in list(items.values()):
            left = result.others.get(item.id)
            if left is not None and left.state in UNSTARTED:
                item.ends_at, item.suspect = INFINITY, left.suspect
                run.returned.append(items.pop(item.id))
        dropped += self._left_over(run, items, result)
        if dropped or result.expired or cancelled:
            self._dismiss(dropped, [*result.expired, *cancelled])
        return run

    def _sort(self, batch: Batch) -> tuple[dict[str, Item], list[Item], list[Job]]:
        """The items of a batch by id, what is dropped before SQL is asked, and the rows of what was cancelled."""
        items: dict[str, Item] = {}
        dropped: list[Item] = []
        deferred: list[Item] = []
        foreign: list[Item] = []
        for item in batch.items:
            if item.id in items:
                # A redelivered twin in the same batch: one of them is enough.
                dropped.append(item)
                continue
            items[item.id] = item
            if item.foreign:
                foreign.append(item)
                if item.not_before is not None:
                    deferred.append(item)
        if foreign:
            for item in self._adopt(foreign):
                dropped.append(items.pop(item.id))
        for item in deferred:
            if item.id not in items:
                continue
            # Its time has not come: SQL has it now, and the dispatcher sends it when it is due.
            dropped.append(items.pop(item.id))
        return items, dropped, self._cancel_revoked(items)

    def recheck(self, run: Run, *, since_s: float) -> None:
        """Before the start of a batch that was claimed ahead, ``since_s`` ago: nothing runs that nobody wants any more.

        A deadline is looked at always; whether somebody has cancelled only when there was time for it.
        """
        now = clock.now()
        held = None
        if since_s > CLAIM_KEEPS_S:
            held = self._insist(partial(self._store.held, [item.id for item in run.live], worker=self._worker))
        for item in run.live:
            if item.error is not None:
                continue
            if item.deadline_at is not None and item.deadline_at <= now:
                item.error = NotStarted("its deadline passed before it could start")
            elif (held is not None and item.id not in held) or revoked.is_open(item.id):
                item.error = NotStarted("it was cancelled before it could start")

    def _claim(self, run: Run, items: dict[str, Item], dropped: list[Item], cancelled: list[Job], now: float) -> None:
        need_input = [item.id for item in items.values() if item.input is None]
        ids = list(items)
        times = {item.id: item.claimed_at for item in items.values()}
        # Most batches come from one claim; then one value serves all rows.
        claimed_at = times if len(set(times.values())) > 1 else next(iter(times.values()))
        tries = itertools.count()
        result = self._insist(
            lambda: self._store.claim(
                ids,
                worker=self._worker,
                version=run.batch.model.version,
                now=now,
                claimed_at=claimed_at,
                need_input=need_input,
                # The first try may have arrived although its answer did not.
                repeated=next(tries) > 0,
                alone=not (run.batch.ahead or run.batch.beside),
            )
        )
        claimed = result.claimed
        if len(claimed) == len(items):
            run.live = list(items.values())
        else:
            run.live = [item for item in items.values() if item.id in claimed]
            dropped += self._left_over(run, items, result)
        astray: list[Item] = []
        for item in run.live:
            row = claimed[item.id]
            item.attempt, item.failures, item.ooms = row.attempt, row.failures, row.ooms
            item.suspect = bool(row.suspect)
            item.deadline_at = row.deadline_at
            if row.timeout_s is not None:
                item.timeout_s = row.timeout_s
            if item.input is None:
                item.input, item.step = row.input, row.run_id is not None
                if row.fault is not None:
                    item.error = NoValue(row.fault)
            elif row.run_id is not None and not item.step:
                astray.append(item)
        if astray:
            self._resolve(astray)
        if dropped or result.expired or cancelled:
            self._dismiss(dropped, [*result.expired, *cancelled])

    def _resolve(self, items: Sequence[Item]) -> None:
        """Steps of runs that were sent as plain jobs, by a dispatcher of a release that does not know runs: what they
        are given is not in their messages."""
        found = self._insist(lambda: self._store.inputs([item.id for item in items]))
        for item in items:
            item.step, item.input = True, found.get(item.id)
            if item.input is None:
                item.error = NoValue("what the step is given is not there")

    def _left_over(self, run: Run, items: dict[str, Item], result: Any) -> list[Item]:
        """Items without a claim: to be finished (canvas), or dropped."""
        dropped = []
        expired = {row.id for row in result.expired}
        for item in items.values():
            if item.id in result.claimed:
                continue
            if item.request is not None:
                if item.id in expired:
                    run.unfinished.append((item, Outcome(id=item.id, attempt=0, state=JobState.EXPIRED)))
                    continue
                row = result.others.get(item.id)
                if row is not None and row.state.is_terminal and not row.canvas_done:
                    run.unfinished.append((item, _stored(row)))
                    continue
            left = result.others.get(item.id)
            if left is not None and left.suspect:
                item.suspect = True
                run.returned.append(item)
                continue
            item.ended = JobState.EXPIRED if item.id in expired else left.state if left is not None else None
            if item.id in result.missing:
                log.warning("message of an unknown job dropped", action="claim.unknown", job=item.id)
            elif item.foreign and left is not None and left.state.is_terminal and not _redelivered(item):
                # A frozen signature that was applied twice, say. Celery would run it again; nor does its chord go on.
                log.warning(
                    "message dropped: its id is that of a job that has ended",
                    action="claim.ended",
                    job=item.id,
                    state=left.state,
                )
            dropped.append(item)
        return dropped

    def _cancel_revoked(self, items: dict[str, Item]) -> list[Job]:
        """Cancel what was revoked through Celery; those that this has ended."""
        if not (worker_state.revoked or worker_state.revoked_stamps):
            return []
        ids = [item.id for item in items.values() if item.revoked or revoked.is_open(item.id)]
        if not ids:
            return []
        self._insist(lambda: self._store.cancel_many(ids, now=clock.now()))
        # Looked at once more: the first try may have arrived although its answer did not. One that is not there was
        # outlived by its message; the claim says so.
        found = self._insist(lambda: self._store.get_many(ids))
        revoked.settle(found)
        return [found[id] for id in ids if id in found and found[id].state is JobState.CANCELLED]

    def _adopt(self, foreign: Sequence[Item]) -> list[Item]:
        """Store the messages that were sent without penstock. One that is refused has no row, and is dropped.

        Those come back whose id is the id of another model's job: to run them would settle that one.
        """
        rows = [item.row for item in foreign if item.row is not None]
        try:
            new = set(self._insist(lambda: self._store.adopt(rows)))
        except InvalidInput as error:
            if len(foreign) > 1:
                return [taken for item in foreign for taken in self._adopt([item])]
            log.error("message cannot be stored", action="claim.adopt", job=foreign[0].id, error=error.message)
            return []
        again = [row.id for row in rows if row.id not in new]
        owners = self._insist(lambda: self._store.models_of(again)) if again else {}
        taken = [item for item in foreign if owners.get(item.id, item.model) != item.model]
        for item in taken:
            log.error(
                "message dropped: its id is the id of another model's job",
                action="claim.taken",
                job=item.id,
                model=item.model,
                owner=owners[item.id],
            )
        return taken


def _redelivered(item: Item) -> bool:
    return bool((getattr(item.request, "delivery_info", None) or {}).get("redelivered"))


def _stored(row: Any) -> Outcome:
    return Outcome(id=row.id, attempt=row.attempt, state=row.state, output=row.output, error=row.error)
