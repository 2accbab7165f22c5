"""From the transport into the batcher: the worker's side of the claim.

The transport asks ``quota`` how much may be claimed, hands plain jobs to ``take``, and lets Celery's strategy bring
every other message of a model through ``take_request``. Runs on the hub thread; never waits for SQL.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from celery.worker import state as worker_state

from penstock import clock, usercode
from penstock.codec import codec_of, item_from_call_of
from penstock.errors import InvalidInput, Rejected, safe_text
from penstock.lane import Lane, queue_name
from penstock.model import Model
from penstock.payload import write_input
from penstock.stepwise import StepModel
from penstock.transport.keys import step_of
from penstock.transport.message import Envelope
from penstock_worker.canvas import foreign, revoked
from penstock_worker.canvas.carried import is_stored
from penstock_worker.canvas.stamps import is_stamped
from penstock_worker.canvas.waysout import WAYS_OUT, is_the_models
from penstock_worker.item import INFINITY, Item
from penstock_worker.report.announcer import Announcer
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.besides import Besides

log = structlog.get_logger(__name__)

_LANES = frozenset(Lane)


class Intake:
    """The transport's sink."""

    def __init__(
        self,
        batcher: Batcher,
        announcer: Announcer,
        models: Mapping[str, type[Model]],
        *,
        default_timeout_s: float,
        target_s: float = 0.1,
        charges: Callable[[], Mapping[str, float]] | None = None,
        one_of: frozenset[str] = frozenset(),
        twins: Mapping[str, str] | None = None,
        max_input_bytes: int = sys.maxsize,
        allow_private: bool = False,
        besides: Besides | None = None,
    ) -> None:
        self._batcher = batcher
        self._announcer = announcer
        self._models = models
        self._default_timeout_s = default_timeout_s
        self._timeout_s = {
            name: cls.timeout_s if cls.timeout_s is not None else default_timeout_s for name, cls in models.items()
        }
        self._max_input_bytes = max_input_bytes
        #: What else is wanted: queues that are no model's.
        self._besides = besides
        #: Whether a message may name a callback in a private network.
        self._allow_private = allow_private
        #: The broker hash that holds the current channel's claims; set when a channel is attached.
        self.source: Callable[[], str] = str
        self._weighed = {name: cls.batching for name, cls in models.items() if cls.batching.cost or cls.batching.key}
        self._target_s = target_s
        #: The transport asks for it at each claim: device seconds that one job of each queue is expected to take.
        self.charges = charges or dict
        #: The transport claims from one of these queues at a time.
        self.one_of = one_of
        #: It claims from these, too, whenever it claims from the queue before the colon.
        self.twins = twins or {}
        #: Whether nothing is wanted, whatever there is room for.
        self.parked = False

    def quota(self) -> Mapping[str, int]:
        """How many more messages of each queue are wanted, in order of service."""
        quotas = self._batcher.quota()
        if self._besides is not None:
            quotas = {**quotas, **self._besides.quota(others=any(quotas.values()))}
        return dict.fromkeys(quotas, 0) if self.parked else quotas

    def take(self, queue: str, envelopes: Sequence[Envelope]) -> None:
        """Plain jobs, claimed."""
        mono, unix = clock.monotonic_s(), clock.now()
        source = self.source()
        items = []
        strays = []
        for e in envelopes:
            if e.model not in self._models or e.lane not in _LANES:
                strays.append(e.tag)
                continue
            item = Item.from_envelope(e, source=source, arrived_at=mono, claimed_at=unix)
            if item.timeout_s is None:
                item.timeout_s = self._timeout_s[e.model]
            item.weighed = e.input is not None or e.model not in self._weighed
            self._weigh(item)
            # Of tenants that compete, whose turn it is was decided by the claim. By the age of their items the one with
            # the longest queue would go first here, and then, when they are late, last.
            since = unix if e.charged else e.at or unix
            _set_due(item, e.priority, None if e.lane != Lane.INTERACTIVE else since + self._target_s)
            items.append(item)
        # Told of first: once they are in their lines, the device thread may tell of their start.
        self._announcer.received(items)
        self._batcher.put(items)
        if strays:
            # Somebody sent them to the wrong queue. SQL has the jobs, and the reconciler sends them to the right one.
            log.warning("messages in a queue of another model", action="intake.stray", queue=queue, count=len(strays))
            self._announcer.send([], [("HDEL", source, *strays)])

    def set_timeout(self, model: str, timeout_s: float | None) -> float:
        """Limit attempts of a model that are claimed from now on, unless their jobs say otherwise; ``None`` for the
        limit that the model has by itself. The new limit."""
        own_s = self._models[model].timeout_s
        limit_s = timeout_s if timeout_s is not None else own_s if own_s is not None else self._default_timeout_s
        self._timeout_s[model] = limit_s
        return limit_s

    def lost(self) -> None:
        """The transport's lease was lost: what waits here is delivered again, here or elsewhere."""
        for item in self._batcher.pull(lambda _: True):
            if item.request is not None:
                worker_state.task_ready(item.request)

    def take_request(self, model: type[Model], message: Any, request: Any) -> None:
        """A message that Celery delivered: a canvas member, or one of a program without penstock.

        What is wrong with it fails its job. Raises when it cannot even become one.
        """
        foreign.check_id(request.id)
        mono, unix = clock.monotonic_s(), clock.now()
        queue = message.delivery_info.get("routing_key") or ""
        lane = Lane.BACKGROUND if queue.endswith(f".{Lane.BACKGROUND}") else Lane.INTERACTIVE
        item = Item.from_request(
            request,
            model.name,
            lane,
            tag=message.delivery_tag,
            foreign=not is_stored(request.request_dict),
            arrived_at=mono,
            claimed_at=unix,
        )
        item.revoked = revoked.is_open(request.id) or is_stamped(request, worker_state.revoked_stamps)
        item.timeout_s = self._timeout_s[model.name]
        item.charged = bool(message.delivery_info.get("charged"))
        timeout_s, carried = foreign.examine(
            item,
            message,
            request,
            lambda: self._write(model, item_from_call_of(model, request.args, request.kwargs)),
            allow_private=self._allow_private,
        )
        if timeout_s is not None:
            item.timeout_s = timeout_s
        if item.foreign:
            asked = model.version if queue in self.twins.values() else None
            foreign.adopt(item, asked, request, message.properties, timeout_s, carried)
        self._weigh(item)
        _set_due(
            item, foreign.priority_of(message.properties), unix + self._target_s if lane is Lane.INTERACTIVE else None
        )
        self._batcher.put([item])

    def _write(self, model: type[Model], value: Any) -> str:
        """The input of a message, by the rule for all producers. The device thread validates it, as it does theirs."""
        try:
            return write_input(model.name, value, codec=codec_of(model), max_bytes=self._max_input_bytes, fits=False)
        except (Rejected, *WAYS_OUT):
            raise
        except BaseException as error:  # the item type's own validators
            raise InvalidInput(f"this input could not be validated: {safe_text(error)}") from error

    def weigh_from(self, items: Sequence[Item], inputs: Mapping[str, str]) -> None:
        """Weigh items whose inputs are too long for a message; by the device thread, before it plans with them."""
        for item in items:
            item.input = inputs.get(item.id)
            self._weigh(item)

    def _weigh(self, item: Item) -> None:
        """Cost and key of the item, where its model has functions for them. A faulty input fails alone."""
        batching = self._weighed.get(item.model)
        if batching is None or item.input is None or not item.read(codec_of(self._models[item.model])):
            return
        try:
            if batching.cost is not None:
                item.cost = max(0.0, float(batching.cost(item.value)))
            if batching.key is not None:
                item.key = str(batching.key(item.value))
        except InvalidInput as error:
            item.error = error
        except BaseException as error:
            if not is_the_models(error):
                raise
            item.error = InvalidInput(f"the cost or key of this input could not be computed: {usercode.told(error)}")


def rivals(models: Mapping[str, type[Model]], namespace: str) -> frozenset[str]:
    """The interactive queues that wait for the same device, whole batch after whole batch; none where it is just one.

    What is claimed for a later batch could not grow, and no idle worker could take it. Step-wise models share the
    device by the step, and background work, of which a device cannot have too much in reach, fills batches.
    """
    found = [name for name, cls in models.items() if not issubclass(cls, StepModel)]
    return frozenset(queue_name(namespace, name, Lane.INTERACTIVE) for name in found) if len(found) > 1 else frozenset()


def twins_of(models: Mapping[str, type[Model]], namespace: str) -> dict[str, str]:
    """The queues of the versions that are served, by the queues of all versions."""
    return {
        queue_name(namespace, name, lane): queue_name(namespace, name, lane, cls.version)
        for name, cls in models.items()
        for lane in Lane
    }


def _set_due(item: Item, priority: int, target_at: float | None) -> None:
    """When the item's result is due, and its rank: higher priorities first, then what is due earlier.

    A step of a run ranks by when it should begin, where that is earlier. Being due is another matter: what is late for
    that gives way to others, and steps of late runs are not to.
    """
    due_at = INFINITY if target_at is None else target_at
    if item.deadline_at is not None:
        due_at = min(due_at, item.deadline_at)
        item.ends_at = item.arrived_at + (item.deadline_at - item.claimed_at)
    # Deadlines are Unix times, the policy's clock is monotonic: both were read at the claim.
    item.due_at = item.arrived_at + (due_at - item.claimed_at)
    turn_at = item.due_at
    if item.start_by is not None:
        turn_at = min(turn_at, item.arrived_at + (item.start_by - item.claimed_at))
    item.rank = (-step_of(priority), turn_at)
