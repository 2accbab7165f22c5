"""One Redis channel, read by whoever needs its messages.

Waking a thread costs more than reading a socket, so a thread that waits for a result reads the socket itself: the
first one to wait leads, brings the others their results, and passes the lead on when it has its own. Only waiters
that cannot read (coroutines, and those who wait for other clients' jobs) make the subscription read by a thread of
its own.
"""

from __future__ import annotations

import logging
import socket as socketlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis

from penstock.client.inbox import Ticket
from penstock.clock import monotonic_s

log = logging.getLogger(__name__)

#: Longest uninterrupted read, seconds: bounds how late a reader sees that it is not needed any more.
SLICE_S = 1.0
#: Pause after a failed connection, seconds: first, and longest.
BACKOFF_S, BACKOFF_MAX_S = 0.05, 1.0
#: A connection that was silent for so long is probed, and given up when the probe is not answered in time, seconds.
PROBE_AFTER_S, PROBE_ANSWER_S = 25.0, 10.0
#: The reading thread ends when nobody has needed it for so long, seconds.
THREAD_IDLE_S = 30.0

# What a broken connection, or one that is closed under its reader, raises in redis-py.
_BROKEN = (redis.RedisError, OSError, AttributeError, ValueError)


class Subscription:
    """One channel, read by one thread at a time: whoever leads. Opens on first use."""

    def __init__(
        self, client: redis.Redis, channel: str, deliver: Callable[[bytes], None], gap: Callable[[], None]
    ) -> None:
        self._client = client
        self._channel = channel
        self._deliver = deliver
        self._gap = gap
        #: Number of the current unbroken stretch; 0 while there is none.
        self.stretch = 0
        self._stretches = 0
        self._mutex = threading.Lock()
        self._led = False
        self._followers: dict[Ticket, None] = {}
        self._connecting = threading.Lock()
        self._connection: Any = None
        self._failures = 0
        self._retry_at = 0.0
        self._heard_at = 0.0
        self._probed = False
        self._thread: threading.Thread | None = None
        self._needed_until = 0.0
        self._closed = threading.Event()

    # For waiters ----------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Subscribe unless subscribed; whether it is. Bounded by the connection's timeouts; never raises."""
        if self.stretch:
            return True
        with self._connecting:
            if self.stretch:
                return True
            if self._closed.is_set() or monotonic_s() < self._retry_at:
                return False
            return self._connect()

    def wait(self, ticket: Ticket, timeout_s: float) -> None:
        """Wait until the ticket is ready or the time is over, reading the socket if nobody else does."""
        ends_at = monotonic_s() + timeout_s
        try:
            while not ticket.ready and (left_s := ends_at - monotonic_s()) > 0:
                if self._take_lead(ticket):
                    try:
                        self._read(ticket, ends_at)
                    finally:
                        self._give_lead()
                else:
                    if not ticket.ready and ticket.signal is not None:
                        ticket.signal.wait(left_s)
                    with self._mutex:
                        self._followers.pop(ticket, None)
        finally:
            with self._mutex:
                # We may have been chosen to lead in the moment in which we left.
                self._choose()

    def need_thread(self) -> None:
        """Let a thread read: for waiters that cannot. It ends a while after the last call."""
        self._needed_until = monotonic_s() + THREAD_IDLE_S
        with self._mutex:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="penstock-push", daemon=True)
                self._thread.start()

    def fetch(self) -> None:
        """Take in what has arrived, unless somebody reads."""
        if self.stretch and self._take_lead(None):
            try:
                if self._connection.can_read(timeout=0):
                    self._receive()
            except _BROKEN as error:
                self._lost(error)
            finally:
                self._give_lead()

    def drop(self) -> None:
        """Give the subscription up; the next ``open`` subscribes again."""
        if self._take_lead(None):
            try:
                self._disconnect()
            finally:
                self._give_lead()

    def close(self) -> None:
        """End for good: readers return, the thread ends."""
        self._closed.set()
        # Shut down, not closed: its reader wakes up, finds its end, and closes it.
        socket: socketlib.socket | None = getattr(self._connection, "_sock", None)
        if socket is not None:
            with suppress(OSError):
                socket.shutdown(socketlib.SHUT_RDWR)
        with self._mutex:
            for follower in self._followers:
                follower.wake()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.drop()
        self._client.close()

    # Leading --------------------------------------------------------------------------------------------------

    def _take_lead(self, ticket: Ticket | None) -> bool:
        with self._mutex:
            if not self._led:
                self._led = True
                return True
            if ticket is not None and not ticket.ready:
                if ticket.signal is not None:
                    ticket.signal.clear()
                self._followers[ticket] = None
            return False

    def _give_lead(self) -> None:
        with self._mutex:
            self._led = False
            self._choose()

    def _choose(self) -> None:
        if not self._led and self._followers:
            next(iter(self._followers)).wake()

    def _run(self) -> None:
        while not self._closed.is_set():
            if self._take_lead(None):
                try:
                    self._read(None, self._needed_until)
                finally:
                    self._give_lead()
            else:
                # A waiting thread leads; it passes the lead on as soon as it has its result.
                self._closed.wait(BACKOFF_S)
            with self._mutex:
                if self._closed.is_set() or monotonic_s() >= self._needed_until:
                    self._thread = None
                    return

    def _read(self, ticket: Ticket | None, ends_at: float) -> None:
        """Read and deliver until the ticket is ready, or the time is over."""
        while not self._closed.is_set() and (ticket is None or not ticket.ready):
            left_s = (self._needed_until if ticket is None else ends_at) - monotonic_s()
            if left_s <= 0:
                return
            if not self.stretch:
                if not self.open():
                    self._closed.wait(min(left_s, BACKOFF_S, max(0.001, self._retry_at - monotonic_s())))
                continue
            try:
                if self._connection.can_read(timeout=min(left_s, SLICE_S)):
                    self._receive(ticket)
                else:
                    self._probe()
            except _BROKEN as error:
                self._lost(error)

    def _receive(self, ticket: Ticket | None = None) -> None:
        """Deliver what is there. The rest waits where it is when the ticket's result has come."""
        while True:
            message = self._connection.read_response()
            self._heard_at = monotonic_s()
            self._probed = False
            if message[0] == b"message":
                self._deliver(message[2])
                if ticket is not None and ticket.ready:
                    return
            if not self._connection.can_read(timeout=0):
                return

    def _probe(self) -> None:
        # A peer that vanished without a word (a power cut, a firewall) looks like a quiet one.
        silent_s = monotonic_s() - self._heard_at
        if not self._probed and silent_s > PROBE_AFTER_S:
            self._probed = True
            self._connection.send_command("PING", check_health=False)
        elif self._probed and silent_s > PROBE_AFTER_S + PROBE_ANSWER_S:
            raise redis.TimeoutError("no answer to a probe")

    # The connection -------------------------------------------------------------------------------------------

    def _connect(self) -> bool:
        connection: Any = None
        try:
            connection = self._client.connection_pool.get_connection()
            connection.send_command("SUBSCRIBE", self._channel, check_health=False)
            connection.read_response()
        except _BROKEN as error:
            if connection is not None:
                connection.disconnect()
                self._client.connection_pool.release(connection)
            if not self._failures:
                log.info("results cannot be pushed now, they are read from SQL: %s", error)
            self._retry_at = monotonic_s() + min(BACKOFF_S * 2**self._failures, BACKOFF_MAX_S)
            self._failures = min(self._failures + 1, 16)
            return False
        if self._closed.is_set():
            connection.disconnect()
            return False
        self._connection = connection
        self._heard_at = monotonic_s()
        self._probed = False
        self._failures = 0
        self._stretches += 1
        self.stretch = self._stretches
        # What happened before this moment was not heard.
        self._gap()
        return True

    def _lost(self, error: BaseException) -> None:
        self._disconnect()
        if not self._closed.is_set():
            log.info("the push connection was lost: %s", error)
            self._retry_at = monotonic_s() + BACKOFF_S
            # Until it is back, whoever waits looks into SQL more often.
            self._gap()

    def _disconnect(self) -> None:
        self.stretch = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)
