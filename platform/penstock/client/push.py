"""Results by push: one subscription to the client's own channel, a second one to everybody's news on demand.

Push is a hint and SQL is the truth. ``mark`` names an unbroken stretch of subscription: a waiter whose job was
submitted under another mark reads SQL first, and a reconnect makes all waiters read it again. While nobody waits,
arrivals are fetched once a second, and after a while the subscription is given up: a producer that never asks for
results has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.client.inbox import Inbox, Mark, Ticket
from penstock.client.subscription import Subscription
from penstock.clock import monotonic_s
from penstock.dispatch.background import Background
from penstock.transport import keys
from penstock.transport.url import connect

#: The subscription is given up when nobody has waited for so long, seconds.
IDLE_S = 30.0
#: How often arrivals are fetched while nobody waits, seconds.
FETCH_EVERY_S = 1.0


class Push:
    """Both subscriptions of a client and its inbox."""

    def __init__(self, url: str, namespace: str, client_id: str, background: Background) -> None:
        self._client_id = client_id
        self._inbox = Inbox()
        self._background = background
        self._own = Subscription(connect(url), keys.reply(namespace, client_id), self._inbox.deliver, self._inbox.gap)
        self._common = Subscription(connect(url), keys.events(namespace), self._inbox.hear, self._inbox.gap)
        self._waited_at = 0.0
        self._closed = False

    @property
    def mark(self) -> Mark | None:
        """What to remember with a job that is about to be submitted; ``None`` while there is no subscription."""
        stretch = self._own.stretch
        return (self._client_id, stretch, self._inbox.losses) if stretch else None

    @property
    def connected(self) -> bool:
        """Whether results are pushed now."""
        return self._own.stretch != 0

    def listen(self) -> None:
        """Subscribe before the first job whose result is wanted, so that not even that one needs a look at SQL."""
        self._waited_at = monotonic_s()
        self._own.open()
        self._background.later(FETCH_EVERY_S, self._tick)

    def open(
        self,
        ids: Sequence[str],
        *,
        foreign: bool,
        every_change: bool = False,
        wake: Callable[[], None] | None = None,
    ) -> Ticket:
        """A place to wait for these jobs. Subscribes first, so that whoever then reads SQL misses nothing."""
        ticket = Ticket(ids, foreign=foreign, every_change=every_change, wake=wake)
        self.listen()
        if foreign:
            self._common.open()
        self._inbox.open(ticket)
        self._read_for(ticket)
        if self._closed:
            ticket.closed = True
            ticket.gap()
        return ticket

    def wait(self, ticket: Ticket, timeout_s: float) -> None:
        """Block until something has come for the ticket, or the time is over."""
        self._waited_at = monotonic_s()
        if not ticket.foreign:
            self._own.wait(ticket, timeout_s)
            return
        self._read_for(ticket)
        assert ticket.signal is not None
        ticket.signal.clear()
        if not ticket.ready:
            ticket.signal.wait(timeout_s)

    def waiting(self, ticket: Ticket) -> None:
        """Somebody waits for the ticket's ``wake`` without blocking: keeps the reading threads alive."""
        self._waited_at = monotonic_s()
        self._read_for(ticket)

    def done(self, ticket: Ticket) -> None:
        """Nobody waits any more."""
        self._inbox.close(ticket)

    def forget(self, id: str) -> None:
        """The job runs again: a result that has come is old."""
        self._inbox.forget(id)

    def close(self) -> None:
        """Wake everybody who waits and end the subscriptions."""
        self._closed = True
        self._inbox.end()
        self._own.close()
        self._common.close()

    def _read_for(self, ticket: Ticket) -> None:
        if ticket.foreign:
            self._common.need_thread()
        if ticket.foreign or ticket.signal is None:
            self._own.need_thread()

    def _tick(self) -> None:
        """Once a second while subscribed: nobody else empties the socket when nobody waits."""
        if self._closed or not (self._own.stretch or len(self._inbox)):
            return
        idle_s = monotonic_s() - self._waited_at
        if idle_s > FETCH_EVERY_S:
            self._own.fetch()
        if idle_s > IDLE_S and not len(self._inbox):
            self._own.drop()
            self._common.drop()
            return
        self._background.later(FETCH_EVERY_S, self._tick)
