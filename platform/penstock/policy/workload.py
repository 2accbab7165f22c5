"""What a worker learns of its load, batch by batch, and when it is worth telling: PURE bookkeeping.

Producers decide by what workers say (``policy.admission``). ``now`` is Unix seconds and comes in; one worker, many
models. ``started`` and ``ended`` go around every batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from penstock.model import Batching
from penstock.policy.admission import WorkerLoad
from penstock.policy.latency import LatencyModel
from penstock.policy.overload import Level, keeping

#: Seconds between two words on one model.
EVERY_S = 0.02
#: Batches over which predictability is judged.
JUDGED = 64
#: A model whose quickest batches took less than this share of the prediction is not predictable.
PREDICTABLE = 0.7
#: The least share of a device that a model is thought to get beside others, here as in ``policy.admission``.
LEAST_FREE = 0.1
#: Weight of the newest batch in the size of a full one.
NEWEST = 0.1
#: The device time of this long ago counts half in a model's share: seconds, or turns of the slowest model.
HALF_S, HALF_TURNS = 2.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What a worker holds of one model besides the running batch.

    ``waiting`` interactive items are claimed and not begun, ``room`` is how many may be; ``filled``: background items
    are there. More is claimed ``lead_s`` before the running batch ends. ``held`` counts the sequences of a step-wise
    model that have begun.
    """

    waiting: int
    filled: bool
    room: int
    lead_s: float
    held: int = 0


class _Learned:
    """One model."""

    def __init__(self, limits: Batching, *, stepwise: bool) -> None:
        #: How many sequences of a step-wise model run side by side; 0 for a model of whole batches.
        self.places = limits.max_size if stepwise else 0
        # The whole turn of the device thread, claim and hand-over included: this is what the next job waits for.
        self.turn = LatencyModel()
        self.ratios: deque[float] = deque(maxlen=JUDGED)
        self.size = float(limits.max_size)
        self.level = Level()
        self.done = 0
        #: Share of the time, up to ``share_at``, in which a batch of this model with an interactive item ran.
        self.share, self.share_at = 0.0, 0.0
        self.written_at = 0.0
        self.said_waiting = 0
        self.busy_until = 0.0

    @property
    def factor(self) -> float:
        """What one job's own batch takes at least, against the prediction; the margin where that is reliable."""
        if not self.ratios:
            return 1.0
        ordered = sorted(self.ratios)
        least = ordered[len(ordered) // 20]
        return self.turn.margin if least >= PREDICTABLE else least


class Workload:
    """All models of one worker. ``limits`` are theirs by name, ``target_s`` is the interactive target.

    Of the models in ``stepwise`` no batches end, but sequences: one that takes ``s`` of the device, as one of ``p``
    which run side by side, frees its place after ``s``, so every ``s / p`` somebody may begin. They are told of as
    models of single items that take so long.
    """

    def __init__(
        self, limits: Iterable[tuple[str, Batching]], *, target_s: float, stepwise: Container[str] = ()
    ) -> None:
        self._learned = {name: _Learned(batching, stepwise=name in stepwise) for name, batching in limits}
        self._target_s = target_s

    @property
    def models(self) -> Iterable[str]:
        """Their names."""
        return self._learned

    def started(
        self,
        model: str,
        now: float,
        *,
        count: int,
        interactive: int,
        waits_s: Sequence[float],
        left: int = 0,
        held: int = 0,
    ) -> None:
        """A batch of ``count`` begins, ``interactive`` of them in that lane; ``waits_s`` is how long those waited.

        ``left`` is how many more of that lane wait in the worker, late ones among them, ``held`` how many sequences had
        begun before.

        Only waits that were for the device belong there, not the back-off of a retry.
        """
        learned = self._learned[model]
        learned.done += interactive
        learned.busy_until = now + learned.turn.predict(count) if learned.turn.seen else now
        if waits_s:
            full_s = learned.turn.predict(learned.size) if learned.turn.seen else 0.0
            # Another host's clock may be ahead of ours.
            wait_s, fill = max(0.0, median(waits_s)), (count + left + held) / max(1.0, learned.size)
            if learned.places:
                full_s /= learned.places
            kept_s = None
            if learned.turn.seen and not learned.places:
                turn = learned.turn
                kept = keeping(self._target_s, alpha=turn.alpha, beta=turn.beta, size=learned.size)
                if kept is not None and kept[1] < learned.size:
                    # Batches of that size are what it does at most while it keeps its target.
                    kept_s, fill = kept[0], (interactive + left) / kept[1]
            learned.level.saw(wait_s, target_s=self._target_s, batch_s=full_s, now=now, fill=fill, kept_s=kept_s)

    def news(self, model: str, now: float, stock: Stock) -> WorkerLoad | None:
        """What to tell of a model whose batch has begun; ``None`` when that was said just now."""
        learned = self._learned[model]
        # The last word before a quiet time must not be that many wait.
        if now - learned.written_at < EVERY_S and (stock.waiting or not learned.said_waiting):
            return None
        learned.written_at, learned.said_waiting = now, stock.waiting
        return self.say(model, now, stock)

    def ended(
        self, model: str, now: float, turn_s: float, *, count: int, size: int, full: bool, interactive: bool
    ) -> None:
        """The batch and all that goes with it took so long: ``count`` items, of ``size`` that were chosen for it.

        ``full``: its model allows no larger one.
        """
        learned = self._learned[model]
        if learned.turn.seen:
            learned.ratios.append(turn_s / max(learned.turn.predict(count), 1e-9))
        learned.turn.observe(count, turn_s)
        if full:
            learned.size += NEWEST * (size - learned.size)
        if interactive:
            begun = self._share(learned, now - turn_s)
            learned.share, learned.share_at = 1.0 - (1.0 - begun) * self._fade(turn_s), now

    def sequence_ended(self, model: str, device_s: float) -> None:
        """A sequence of a step-wise model is complete; the steps that it took part in took so long."""
        learned = self._learned[model]
        if learned.turn.seen:
            learned.ratios.append(device_s / max(learned.turn.predict(1), 1e-9))
        learned.turn.observe(1, device_s)

    def say(self, model: str, now: float, stock: Stock) -> WorkerLoad:
        """Everything about one model."""
        learned = self._learned[model]
        others = (other for name, other in self._learned.items() if name != model)
        free = max(0.0, 1.0 - sum(self._share(other, now) for other in others))
        if learned.places:
            every_s = learned.turn.predict(1) / learned.places if learned.turn.seen else 0.0
            return WorkerLoad(
                at=now,
                busy_until=now if stock.held < learned.places else now + every_s,
                claims_at=now,
                waiting=stock.waiting,
                room=stock.room,
                filled=False,  # background has places of its own
                alpha=every_s,
                beta=0.0,
                factor=learned.factor * learned.places,
                size=1.0,
                free=free,
                level=learned.level.value,
                done=learned.done,
                seen=learned.turn.seen,
            )
        return WorkerLoad(
            at=now,
            busy_until=learned.busy_until,
            claims_at=max(now, learned.busy_until - stock.lead_s),
            waiting=stock.waiting,
            # Of rival models it claims one at a time, so what it may have claimed of this one it mostly has not.
            room=math.ceil(stock.room * max(LEAST_FREE, free)),
            filled=stock.filled,
            alpha=learned.turn.alpha,
            beta=learned.turn.beta,
            factor=learned.factor,
            size=max(1.0, learned.size),
            free=free,
            level=learned.level.value,
            done=learned.done,
            seen=learned.turn.seen,
        )

    def _share(self, learned: _Learned, now: float) -> float:
        """A model's share of the device at a later time; nothing of it has run since."""
        return learned.share * self._fade(max(0.0, now - learned.share_at))

    def _fade(self, seconds: float) -> float:
        whole = [it for it in self._learned.values() if it.turn.seen and not it.places]
        slowest_s = max((it.turn.predict(it.size) for it in whole), default=0.0)
        return float(0.5 ** (seconds / max(HALF_S, HALF_TURNS * slowest_s)))
