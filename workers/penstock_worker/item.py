"""What the worker holds for one claimed message, and for one batch of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any

from penstock.codec import ItemCodec
from penstock.errors import InvalidInput, safe_text
from penstock.job import DEFAULT_TENANT, JobState, NewJob, Outcome
from penstock.lane import Lane
from penstock.model import Model
from penstock.policy.memory import Call
from penstock.store.records import Within
from penstock.transport.message import Envelope

if TYPE_CHECKING:
    from celery.worker.request import Request


INFINITY = float("inf")

#: An ETA this close is not worth a way through SQL, seconds.
ETA_NOW_S = 0.05


class Item:
    """One claimed message on its way through the worker.

    Plain jobs carry only what the hot path needs; ``request`` is set for members of a Celery canvas (and for every
    message of a program that does not know penstock), which keep Celery's full semantics.
    """

    __slots__ = (
        "arrived_at",
        "attempt",
        "available_at",
        "charged",
        "claimed_at",
        "cost",
        "deadline_at",
        "device_s",
        "due_at",
        "ended",
        "ends_at",
        "error",
        "failures",
        "foreign",
        "id",
        "input",
        "key",
        "lane",
        "late",
        "model",
        "not_before",
        "ooms",
        "rank",
        "reply_to",
        "request",
        "revoked",
        "row",
        "source",
        "start_by",
        "step",
        "suspect",
        "tag",
        "tenant",
        "timeout_s",
        "value",
        "weighed",
        "within",
    )

    def __init__(
        self,
        id: str,
        model: str,
        lane: Lane,
        *,
        input: str | None,
        tag: Any,
        source: str,
        arrived_at: float,
        claimed_at: float,
        reply_to: str | None = None,
        request: Request | None = None,
        foreign: bool = False,
        revoked: bool = False,
    ) -> None:
        self.id = id
        self.model = model
        self.lane = lane
        #: JSON text; ``None`` when the message names the job instead, and the store has the input.
        self.input = input
        self.tag = tag
        #: The broker hash that holds the message until it is acknowledged.
        self.source = source
        #: Monotonic seconds, for the policy; ``claimed_at`` is the same instant in Unix seconds, for the ledger.
        self.arrived_at = arrived_at
        self.claimed_at = claimed_at
        self.reply_to = reply_to
        self.tenant = DEFAULT_TENANT
        self.request = request
        #: Whether the message may belong to no row yet (sent by a program without penstock): then it is adopted.
        self.foreign = foreign
        #: The row that such a message becomes.
        self.row: NewJob | None = None
        #: Revoked through Celery's remote control: it is claimed only to be cancelled.
        self.revoked = revoked
        #: Celery's ETA, Unix seconds, where it lies ahead: the item goes to SQL and is sent when it is due.
        self.not_before: float | None = None
        #: Since when it could run, Unix seconds, where its message says so: not while it was delayed, or backed off.
        self.available_at: float | None = None
        self.deadline_at: float | None = None
        #: When a step should begin, for its run to be in time (Unix seconds): it orders, and expires nothing.
        self.start_by: float | None = None
        self.cost = 1.0
        #: Items whose keys differ never share a batch.
        self.key = ""
        #: When its result is due, and when its own deadline is (monotonic seconds), and its place among the interactive
        #: items that wait.
        self.due_at = self.ends_at = INFINITY
        self.rank = (0, INFINITY)
        #: Whether it was too late for its target when its turn came.
        self.late = False
        #: Whether cost and key are known; they are not while the input is still to be read from SQL.
        self.weighed = True
        #: It may have taken a worker down: it runs alone. SQL knows, and says so when it is claimed with others.
        self.suspect = False
        #: Whether the claim has charged the job's tenant for it; then the acknowledgement settles the difference.
        self.charged = False
        #: What it has taken of the device, seconds: 0 until it has run.
        self.device_s = 0.0
        # Filled by the claim.
        #: The state that SQL has the job in, where it was not claimed.
        self.ended: JobState | None = None
        self.attempt = 0
        self.failures = 0
        self.ooms = 0
        self.timeout_s: float | None = None
        #: Whether it is a step of a run, and where it is told of.
        self.step = False
        self.within: Within | None = None
        # Filled by the preparation.
        self.value: Any = None
        self.error: BaseException | None = None

    @classmethod
    def from_envelope(cls, e: Envelope, *, source: str, arrived_at: float, claimed_at: float) -> Item:
        """Of a plain job's message, in whose lane there is one of that name."""
        item = cls(
            e.id,
            e.model,
            Lane(e.lane),
            input=e.input,
            tag=e.tag,
            source=source,
            arrived_at=arrived_at,
            claimed_at=claimed_at,
            reply_to=e.reply_to,
        )
        item.charged = e.charged
        item.step = e.step
        item.available_at = e.at
        item.tenant = e.tenant or DEFAULT_TENANT
        item.deadline_at = e.deadline_at
        item.start_by = e.start_by
        item.timeout_s = e.timeout_s
        return item

    @classmethod
    def from_request(
        cls, request: Request, model: str, lane: Lane, *, tag: Any, foreign: bool, arrived_at: float, claimed_at: float
    ) -> Item:
        """Of a message that Celery delivered. Its arguments, which may be faulty, are read by whoever takes it."""
        item = cls(
            request.id,
            model,
            lane,
            input=None,
            tag=tag,
            source="",
            arrived_at=arrived_at,
            claimed_at=claimed_at,
            request=request,
            foreign=foreign,
        )
        if request.expires is not None:
            item.deadline_at = _unix(request.expires)
        if request.eta is not None and _unix(request.eta) > claimed_at + ETA_NOW_S:
            item.not_before = _unix(request.eta)
        return item

    def read(self, codec: ItemCodec) -> bool:
        """Make the value of the input, unless that is done; whether there is one. A faulty input fails alone."""
        if self.value is None and self.error is None:
            try:
                self.value = codec.decode(self.input if self.input is not None else b"null")
            except InvalidInput as error:
                self.error = error
            except Exception as error:  # the item type itself cannot be used
                self.error = InvalidInput(f"this input could not be validated: {safe_text(error)}")
        return self.error is None


def _unix(date: Any) -> float:
    """Celery writes dates in UTC, and without a time zone where the app works in UTC."""
    return float((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


@dataclass(slots=True)
class Batch:
    """Items of one model that the policy released together."""

    model: type[Model]
    items: list[Item]
    reason: str
    key: str = ""
    #: When the device thread took it, monotonic seconds.
    taken_mono: float = 0.0
    #: Whether it is claimed ahead, while the batch before it runs; the run that it became, and when (monotonic).
    ahead: bool = False
    claimed: Run | None = None
    claimed_mono: float = 0.0
    #: Whether the worker holds others beside it: sequences of step-wise models that have begun.
    beside: bool = False

    @property
    def name(self) -> str:
        """Its model's name."""
        return self.model.name


@dataclass(slots=True)
class Run:
    """One batch on its way through the runner's steps."""

    batch: Batch
    #: Items that this worker holds a claim on; the others were expired, cancelled or somebody else's.
    live: list[Item] = field(default_factory=list)
    #: Position by position the result or the exception of ``live``.
    results: Sequence[Any] = ()
    #: Canvas members that were settled by an earlier delivery and only need Celery's part finished.
    unfinished: list[tuple[Item, Outcome]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    started_at: float = 0.0
    started_mono: float = 0.0
    #: Items that go back into the waiting room: those that may only be claimed alone, and those that are not expired.
    returned: list[Item] = field(default_factory=list)
    #: The model's call that runs now: since when (monotonic seconds), and the items in it.
    call: tuple[float, list[Item]] | None = None
    #: How the calls went, as far as they say something about sizes.
    calls: Sequence[Call] = ()
    compute_s: float = 0.0
    #: When the device was free again, monotonic seconds.
    ended_mono: float = 0.0
    _taken: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def on_device(self) -> tuple[float, list[Item]]:
        """Since when which items keep the device busy; all of them before the first call."""
        return self.call or (self.started_mono, self.live)

    def take(self) -> bool:
        """Whether the caller is the one who settles this run: the device thread or the watchdog, who asks first."""
        return self._taken.acquire(blocking=False)
