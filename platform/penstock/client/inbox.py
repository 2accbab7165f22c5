"""Who waits for which job, and what has arrived: no I/O.

News comes in from a connection (``push``), tickets go out to whoever waits. Results of jobs that nobody waits for yet
are kept for a while, bounded in number and size; when one of them is dropped, ``losses`` grows, which tells later
waiters to read SQL first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from penstock.job import TERMINAL, JobState
from penstock.jsontext import UNREADABLE

#: Results kept for later waiters: number, and bytes of their outputs.
MOST_EARLY = 4096
MOST_EARLY_BYTES = 16 * 2**20


#: The "state" in news of partial output.
PROGRESS = "progress"

#: What a client remembers with a job that it submits: its own id, the number of the unbroken stretch of its
#: subscription, and how many kept results it had dropped. Under the same mark, nothing can have been missed.
Mark = tuple[str, int, int]


class Record(msgspec.Struct, gc=False):
    """One result as it is pushed. ``output`` is absent when it is long: then it is read from SQL."""

    id: str
    state: JobState
    attempt: int = 0
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether it says all that a waiter wants to know."""
        return self.state is not JobState.SUCCEEDED or self.output is not msgspec.UNSET


class Change(msgspec.Struct, gc=False):
    """One change of state of several jobs, as everybody hears it."""

    state: str
    ids: list[str]
    model: str = ""
    at: float = 0.0
    worker: str | None = None


decode_records = msgspec.json.Decoder(list[Record]).decode
decode_change = msgspec.json.Decoder(Change).decode


class Ticket:
    """One waiter's place: it may wait for many jobs at once.

    ``ready`` is set when something has come; ``take`` empties it. ``wake`` is called after each arrival, from
    whichever thread brought it, and must neither block nor raise.
    """

    __slots__ = ("_news", "_reread", "_unsure", "closed", "every_change", "foreign", "ids", "ready", "signal", "wake")

    def __init__(
        self, ids: Sequence[str], *, foreign: bool, every_change: bool = False, wake: Callable[[], None] | None = None
    ) -> None:
        self.ids = ids
        #: Whether some of the jobs belong to other clients, whose results are not pushed to us.
        self.foreign = foreign
        #: Whether changes to states that are not terminal matter.
        self.every_change = every_change
        self.signal = None if wake is not None else threading.Event()
        self.wake: Callable[[], None] = wake if self.signal is None and wake is not None else self._set
        self.ready = False
        #: Set when the client is closed: nothing will come any more.
        self.closed = False
        self._news: deque[Record] = deque()
        self._unsure: deque[str] = deque()
        self._reread = False

    def take(self) -> tuple[list[Record], list[str], bool]:
        """``(results, ids to read from SQL, whether all of them must be read)``."""
        self.ready = False
        reread, self._reread = self._reread, False
        return _drain(self._news), _drain(self._unsure), reread

    def put(self, record: Record) -> None:
        self._news.append(record)
        self._arrived()

    def hint(self, id: str) -> None:
        """The job has changed; SQL knows how."""
        self._unsure.append(id)
        self._arrived()

    def advance(self) -> None:
        """There is more partial output; the job's row says nothing new."""
        self._arrived()

    def gap(self) -> None:
        """News may have been missed."""
        self._reread = True
        self._arrived()

    def _arrived(self) -> None:
        self.ready = True
        self.wake()

    def _set(self) -> None:
        assert self.signal is not None
        self.signal.set()


def _drain(queue: deque[Any]) -> list[Any]:
    taken = []
    while queue:
        taken.append(queue.popleft())
    return taken


class Inbox:
    """Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[str, list[Ticket]] = {}
        self._early: OrderedDict[str, Record] = OrderedDict()
        self._early_bytes = 0
        self.losses = 0

    def open(self, ticket: Ticket) -> None:
        """From now on news of the ticket's jobs goes to it; what came early is in it already."""
        with self._mutex:
            for id in ticket.ids:
                self._waiting.setdefault(id, []).append(ticket)
                record = self._early.pop(id, None) if self._early else None
                if record is not None:
                    self._early_bytes -= _size(record)
                    ticket.put(record)

    def close(self, ticket: Ticket) -> None:
        """The ticket's owner has left. What was not taken is kept; others who wait for the same jobs look again."""
        with self._mutex:
            for id in ticket.ids:
                tickets = self._waiting.get(id)
                if tickets is None or ticket not in tickets:
                    continue
                tickets.remove(ticket)
                if not tickets:
                    del self._waiting[id]
                for other in tickets:
                    # Its result may have been in our hands when that one came to wait.
                    other.hint(id)
            for record in ticket.take()[0]:
                self._keep(record)

    def deliver(self, message: bytes) -> None:
        """A message of our own channel: results. Anything unreadable is ignored: SQL has the truth."""
        try:
            records = decode_records(message)
        except UNREADABLE:
            return
        with self._mutex:
            for record in records:
                if record.state not in TERMINAL:
                    continue
                tickets = self._waiting.get(record.id)
                if tickets is None:
                    self._keep(record)
                else:
                    for ticket in tickets:
                        ticket.put(record)

    def hear(self, message: bytes) -> None:
        """A message of the common channel: a change of state of any jobs."""
        try:
            change = decode_change(message)
        except UNREADABLE:
            return
        ended = change.state in TERMINAL
        with self._mutex:
            for id in change.ids:
                for ticket in self._waiting.get(id, ()):
                    if change.state == PROGRESS:
                        if ticket.every_change:
                            ticket.advance()
                    elif ticket.every_change or (ended and ticket.foreign):
                        ticket.hint(id)

    def gap(self) -> None:
        """A connection was lost or is new: everybody who waits reads SQL."""
        for ticket in self.tickets():
            ticket.gap()

    def forget(self, id: str) -> None:
        """The job runs again: a result that was kept is old."""
        with self._mutex:
            record = self._early.pop(id, None)
            if record is not None:
                self._early_bytes -= _size(record)

    def end(self) -> None:
        """The client is closed: wake everybody."""
        for ticket in self.tickets():
            ticket.closed = True
            ticket.gap()

    def tickets(self) -> Iterable[Ticket]:
        """Everybody who waits, each once."""
        with self._mutex:
            return list({id(ticket): ticket for tickets in self._waiting.values() for ticket in tickets}.values())

    def __len__(self) -> int:
        return len(self._waiting)

    def _keep(self, record: Record) -> None:
        if isinstance(record.output, msgspec.Raw):
            # A view would keep the whole message alive.
            record.output = record.output.copy()
        old = self._early.pop(record.id, None)
        self._early[record.id] = record
        self._early_bytes += _size(record) - (0 if old is None else _size(old))
        while len(self._early) > MOST_EARLY or self._early_bytes > MOST_EARLY_BYTES:
            _, dropped = self._early.popitem(last=False)
            self._early_bytes -= _size(dropped)
            self.losses += 1


def _size(record: Record) -> int:
    return len(record.output) if isinstance(record.output, msgspec.Raw) else 0
