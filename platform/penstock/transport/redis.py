"""A kombu transport for Redis that claims in bulk; a stock Celery worker runs on it.

``install()`` puts it in the place of kombu's own Redis transports, so that URLs stay ``redis://…``. What differs:

- Messages are *claimed*: one script acknowledges the old ones and moves many new ones from their lists into a hash of
  this consumer (see ``claims``). kombu pops each message and then notes it down, and a kill in between loses it.
- An idle channel waits on the queues' *bells*, which our publishers ring, with a claim already sent behind the wait:
  the server runs it as soon as a bell rings, so a message comes with the wake-up. Stock producers ring no bell; the
  wait ends every ``idle_tick_s`` to look for their messages.
- Larger priorities go first, as AMQP has it. (kombu's Redis transport serves the smaller ones first.)
- A channel with a *sink* (a worker's batcher) gives it plain penstock jobs as ``Envelope`` objects, as many per
  queue as it asks for, and everything else goes kombu's way, through ``Message`` and QoS.

Two connections do the work. One waits (registered with the event loop, like kombu's BRPOP); the other, ``_commands``,
claims, acknowledges and gives back while the first is blocked. Each claim on it is a short round trip that the loop
waits for. The lease is kept by a thread, since a task that runs in the loop's thread must not end it.

This module is what kombu is given: transport and poller. ``channel`` does the work, with ``demand`` (what may be
claimed now), ``claims`` (the protocol), ``delivery`` (who gets what came) and ``lease``.
"""

# The published type stubs know little of what is inside kombu's Redis transport, which this module extends.
# mypy: disable-error-code="attr-defined, has-type, misc, override, union-attr, arg-type, operator"

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty
from typing import Any

import kombu.transport
from kombu.transport import redis as stock

from penstock.transport import unpacking
from penstock.transport.channel import BulkChannel, Channel, SentinelChannel


class Poller(stock.MultiChannelPoller):
    """kombu's poller, which lets our channels claim before each poll and never pauses a wait.

    kombu stops reading a connection without credit. Ours asks only for what it may take, so an answer is always read.
    """

    def on_poll_start(self) -> bool:
        came = False
        for channel in list(self._channels):
            if channel.active_queues:
                came = channel.turn(self) or came
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        return came

    def start_wait(self, channel: BulkChannel) -> None:
        """Begin a channel's idle wait and watch its connection."""
        self._register_BRPOP(channel)

    def on_readable(self, fileno: int) -> Any:
        known = self._fd_to_chan.get(fileno)
        if known is None:
            return None
        channel, kind = known
        if kind == "BRPOP" and not channel._in_poll:
            connection = channel.client.connection
            if connection._sock is not None and stock._socket_readable(connection._sock):
                connection.disconnect()  # nothing is expected: the server closed it
            return None  # else its answer was read earlier in this turn
        return channel.handlers[kind]()

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """One turn without an event loop (``drain_events``)."""
        self._in_protected_read = True
        try:
            self.maybe_refresh_binding_expiry()
            if self.on_poll_start():
                return
            events = self.poller.poll(timeout)
            for fileno, event in events or ():
                if self.handle_event(fileno, event):
                    return
            if not events:
                self.maybe_check_brpop_health()
            raise Empty
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()


class BulkTransport(stock.Transport):
    """Our transport's part that does not depend on the kind of connection."""

    #: The event loop that drives the channels, if any, and the thread it runs in.
    loop: Any = None
    loop_thread = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        self.loop = loop
        self.loop_thread = threading.get_ident()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run something in the event loop after a while; never, where there is none."""
        if self.loop is not None:
            self.loop.call_later(delay_s, callback)

    def wake(self) -> None:
        """Make the event loop leave its poll. Safe in any thread, and when no loop runs."""
        waker = getattr(self.loop, "_waker", None)
        if waker is not None:
            waker.wake()

    def wake_from_elsewhere(self) -> bool:
        """Wake the loop unless this is its own thread. Whether there is a loop."""
        if self.loop is None:
            return False
        if threading.get_ident() != self.loop_thread:
            self.wake()
        return True


class Transport(BulkTransport):
    """``redis://``, ``rediss://``, ``redis+socket://``."""

    Channel = Channel


class SentinelTransport(BulkTransport, stock.SentinelTransport):
    """``sentinel://``."""

    Channel = SentinelChannel


def install() -> None:
    """Let kombu use this transport for all its Redis URLs, in this process. Idempotent; before the first connection."""
    unpacking.bound()
    plain, sentinel = f"{__name__}:Transport", f"{__name__}:SentinelTransport"
    for alias, target in (("redis", plain), ("rediss", plain), ("sentinel", sentinel)):
        kombu.transport.TRANSPORT_ALIASES[alias] = target
        kombu.transport._transport_cache.pop(alias, None)
