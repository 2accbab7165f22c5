"""A model that does not return: what has outlived its timeout is settled, and the process must end.

A thread that hangs in a model cannot be stopped. So the hub thread settles what the device holds, while the model is
still at it, and the supervisor starts another worker. A late item that is alone on the device fails. Of several nobody
knows which one hangs: they become suspects, and each runs alone the next time (``docs/decisions/0052``). Items whose
own timeout has not passed go back to the queue untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from penstock import clock
from penstock.errors import AttemptTimeout
from penstock.job import JobState, Outcome
from penstock.model import Model
from penstock.store import Store
from penstock_worker.canvas.finisher import CanvasFinisher
from penstock_worker.execute.outcome import error_record
from penstock_worker.execute.runner import overdue
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.announcer import Announcer
from penstock_worker.steps.sequences import Sequences

log = structlog.get_logger(__name__)


class Watchdog:
    """``check`` now and then, on the hub thread.

    ``current()`` is the run on the device, ``seize()`` takes what was claimed ahead, ``charge(run, seconds)`` accounts
    for the device time that was lost.
    """

    def __init__(
        self,
        store: Store,
        announcer: Announcer,
        canvas: CanvasFinisher,
        *,
        worker: str,
        classes: Mapping[str, type[Model]],
        current: Callable[[], Run | None],
        sequences: Sequences,
        seize: Callable[[], Run | None],
        charge: Callable[[Run, float], None],
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._canvas = canvas
        self._worker = worker
        self._classes = classes
        self._current = current
        self._sequences = sequences
        self._seize = seize
        self._charge = charge
        #: The run that does not return, as it was found: its late items, and their mates.
        self._found: tuple[Run | None, list[Item], list[Item]] | None = None

    @property
    def wedged(self) -> bool:
        """Whether the device is held by a model that does not return."""
        return self._found is not None

    def check(self) -> bool:
        """Settle what has outlived its timeout; whether there was any. What the store refuses is tried again."""
        if self._found is None:
            self._found = self._look()
        if self._found is None:
            return False
        run, late, mates = self._found
        now = clock.now()
        outcomes = verdicts(run, late, mates, now=now)
        log.error("model does not return", action="batch.timeout", model=late[0].model, late=len(late))
        settled = self._store.settle(outcomes, worker=self._worker, now=now)
        pairs = list(zip(late + mates, outcomes, strict=True))
        ended = [self._ended(name, pairs) for name in {item.model for item, _ in pairs}]
        if run is not None:
            # Whatever else this worker held has had nothing of the device.
            self._charge(run, clock.monotonic_s() - run.started_mono)
        news = self._announcer.settled(settled, {}, ended)
        self._announcer.send(news, self._announcer.acks(item for item, _ in pairs if item.request is None))
        members = [(item, outcome) for item, outcome in pairs if item.request is not None]
        if members:
            final = {row.id: row for row in settled}
            self._canvas.finish([(item, outcome, final.get(item.id)) for item, outcome in members])
        return True

    def _look(self) -> tuple[Run | None, list[Item], list[Item]] | None:
        """What is late, if anything, and all else that is lost with the process, whoever is to blame."""
        mono = clock.monotonic_s()
        run = self._current()
        late, mates = overdue(run, now_mono=mono)
        # From here on the run is the watchdog's, also when it has to try again to settle it.
        if late and (run is None or not run.take()):
            return None
        if not late:
            run = None
            late = [member.item for member in self._sequences.overdue(now_mono=mono)]
        if not late:
            return None
        mates += [m.item for m in list(self._sequences.held.values()) if m.item not in late]
        ahead = self._seize()
        mates += ahead.live if ahead is not None else []
        return run, late, mates

    def _ended(self, model: str, pairs: Sequence[tuple[Item, Outcome]]) -> Run:
        """What was settled of one model, as the announcer tells it."""
        live = [item for item, _ in pairs if item.model == model]
        return Run(Batch(self._classes[model], live, "timeout"), live=live)


def verdicts(run: Run | None, late: Sequence[Item], mates: Sequence[Item], *, now: float) -> list[Outcome]:
    """What becomes of the late items and of those that are lost with them, in this order.

    Without a run these are sequences in steps: each has its own timeout, and all that are late are known.
    """
    alone = run is None or len(run.on_device[1]) == 1
    outcomes = []
    for item in late:
        item.error = error = AttemptTimeout(
            f"model {item.model!r} did not return within {item.timeout_s:g} s",
            fix="raise the job's timeout, or mend the model",
        )
        outcomes.append(
            Outcome(id=item.id, attempt=item.attempt, state=JobState.FAILED, error=error_record(error))
            if run is None
            else Outcome(
                id=item.id,
                attempt=item.attempt,
                state=JobState.FAILED if alone else JobState.ACCEPTED,
                error=error_record(error),
                available_at=None if alone else now,
                suspicions=0 if alone else 1,
                started_at=run.started_at,
                batch_size=len(run.live),
                batch_reason=run.batch.reason,
            )
        )
    untouched = [Outcome(id=i.id, attempt=i.attempt, state=JobState.ACCEPTED, available_at=now) for i in mates]
    return outcomes + untouched
