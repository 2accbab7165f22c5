"""A Redis connection that does not wait for its answers.

What the worker tells the broker while it works (news, acknowledgements) needs no answer before the next batch can
run, so a round trip per batch would be time lost. ``Wire`` writes the commands and reads the answers of earlier ones
when it comes by again. Commands that must arrive are kept until they are answered, and sent again after a
reconnect; they have to be idempotent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
import structlog

from penstock.clock import monotonic_s
from penstock.transport.url import connect

log = structlog.get_logger(__name__)

Command = tuple[Any, ...]

#: Refusals that end by themselves: a failover, a server that has no replicas, disk or memory for the moment.
PASSING = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.OutOfMemoryError,
)
PASSING_CODES = ("MISCONF", "NOREPLICAS", "BUSY", "LOADING")

#: After a failure, nothing is tried for so long, seconds.
RETRY_EVERY_S = 0.5
#: With so many answers outstanding, the writer waits for them: Redis is slower than we are.
MOST_OUTSTANDING = 4096


class Wire:
    """One connection, used by any thread, one at a time. Never raises for a broker that is away."""

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._lock = threading.Lock()
        self._connection: Any = None
        self._outstanding = 0
        #: Commands that must arrive: written and not yet answered, then those not yet written.
        self._unanswered: deque[tuple[int, list[Command]]] = deque()
        self._unsent: list[Command] = []
        self._written = 0
        self._answered = 0
        self._retry_at = 0.0
        self._down = False

    def send(self, news: Sequence[Command], must: Sequence[Command] = ()) -> None:
        """Write ``news`` (lost when the broker is away), then ``must`` (kept and sent again)."""
        with self._lock:
            self._unsent.extend(must)
            self._send(news)

    def flush(self) -> bool:
        """Send what is kept and read every answer; whether nothing is left to send."""
        with self._lock:
            self._send(())
            if self._connection is not None:
                self._guard(lambda: self._read(0))
            return not self._unsent and not self._unanswered

    def close(self) -> None:
        """Flush once and close the connection."""
        self.flush()
        with self._lock:
            self._drop()
            self._client.close()

    @property
    def kept(self) -> int:
        """How many commands still have to arrive."""
        return len(self._unsent) + sum(len(commands) for _, commands in self._unanswered)

    def _send(self, news: Sequence[Command]) -> None:
        if not news and not self._unsent:
            return
        if self._down and monotonic_s() < self._retry_at:
            return
        self._guard(lambda: self._write(news))

    def _write(self, news: Sequence[Command]) -> None:
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        connection = self._connection
        # Answers that have arrived are read first: unread ones would fill the socket's buffer.
        self._read(MOST_OUTSTANDING)
        must, self._unsent = self._unsent, []
        commands = [*news, *must]
        if must:
            self._unanswered.append((self._written + len(commands), must))
        self._written += len(commands)
        self._outstanding += len(commands)
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        if self._down:
            self._down = False
            log.info("broker is back", action="wire.up")

    def _read(self, most: int) -> None:
        """Read the answers that are there; waits only while more than ``most`` are outstanding."""
        connection = self._connection
        while self._outstanding and (self._outstanding > most or connection.can_read(timeout=0)):
            try:
                connection.read_response()
            except redis.ResponseError as error:
                # A refused PUBLISH must not stop the worker.
                log.warning("broker refused a command", action="wire.refused", error=str(error))
                if isinstance(error, PASSING) or str(error).startswith(PASSING_CODES):
                    self._keep_refused()
            self._outstanding -= 1
            self._answered += 1
            while self._unanswered and self._unanswered[0][0] <= self._answered:
                self._unanswered.popleft()

    def _keep_refused(self) -> None:
        """The command of the answer at hand is sent again with the next ones, when it is one that must arrive."""
        if self._unanswered:
            ends, must = self._unanswered[0]
            place = self._answered + len(must) - ends
            if place >= 0:
                self._unsent.append(must[place])

    def _guard(self, step: Any) -> None:
        try:
            step()
        except (redis.RedisError, OSError) as error:
            if not self._down:
                log.warning("broker is away", action="wire.down", error=str(error))
            self._down = True
            self._retry_at = monotonic_s() + RETRY_EVERY_S
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)
        self._unsent = [command for _, commands in self._unanswered for command in commands] + self._unsent
        self._unanswered.clear()
        self._outstanding = 0
        self._written = self._answered = 0
