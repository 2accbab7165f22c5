"""A Redis connection that does not wait for its answers.

What the worker tells the broker while it works (news, acknowledgements) needs no answer before the next batch can
run, so a round trip per batch would be time lost. ``Wire`` writes the commands and reads the answers of earlier ones
when it comes by again. Commands that must arrive are kept until they are answered, and sent again after a
reconnect; they have to be idempotent. So are those that were refused for the time being: a failover, a full disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
import structlog

from penstock.clock import monotonic_s
from penstock.transport.mend import mend
from penstock.transport.refusals import RefusedReply, cause_of, malformed
from penstock.transport.url import connect

log = structlog.get_logger(__name__)

Command = tuple[Any, ...]

#: After a failure, nothing is tried for so long, seconds.
RETRY_EVERY_S = 0.5
#: With so many answers outstanding, the writer waits for them: Redis is slower than we are.
MOST_OUTSTANDING = 4096


class Wire:
    """One connection, used by any thread, one at a time. Never raises for a broker that is away or refuses."""

    def __init__(self, url: str, namespace: str) -> None:
        # Each answer is looked at here: one that is refused must not make the others be sent again.
        self._client = connect(url, replies=True)
        self._namespace = namespace
        self._lock = threading.Lock()
        self._connection: Any = None
        self._outstanding = 0
        #: Commands that must arrive: written and not yet answered, then those not yet written.
        self._unanswered: deque[tuple[int, list[Command]]] = deque()
        self._unsent: list[Command] = []
        #: News that go with what is written next.
        self._held: list[Command] = []
        self._written = 0
        self._answered = 0
        self._retry_at = 0.0
        self._down = False
        #: Causes that were told and have not passed, and whether one was met since all answers were last read.
        self._told: set[str] = set()
        self._troubled = False
        #: Whether a command that must arrive was refused on this connection, and when those are sent again.
        self._refused_here = False
        self._must_at = 0.0

    def send(self, news: Sequence[Command], must: Sequence[Command] = ()) -> None:
        """Write ``news`` (lost when the broker is away), then ``must`` (kept and sent again)."""
        with self._lock:
            self._unsent.extend(must)
            self._send(news)

    def hold(self, news: Sequence[Command]) -> None:
        """``news`` of something that is over soon: written together with the next."""
        with self._lock:
            self._held.extend(news)

    def tell_held(self) -> None:
        """It was not over soon: write what was held."""
        if self._held:
            self.send(())

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
        if self._held:
            news, self._held = [*self._held, *news], []
        if not news and (not self._unsent or monotonic_s() < self._must_at):
            return
        if self._down and monotonic_s() < self._retry_at:
            return
        self._guard(lambda: self._write(news))

    def _write(self, news: Sequence[Command]) -> None:
        # What is written where the server has closed, maybe since it was idle, would be lost; and where it refuses, the
        # address may lead to another server by now.
        if self._connection is not None and (not self._open() or self._refused_here):
            self._drop()
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        connection = self._connection
        must: list[Command] = []
        if monotonic_s() >= self._must_at:
            must, self._unsent = self._unsent, []
        commands = [*news, *must]
        if must:
            self._unanswered.append((self._written + len(commands), must))
        self._written += len(commands)
        self._outstanding += len(commands)
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        self._down = False

    def _open(self) -> bool:
        """Whether the connection is open, as far as this side knows. Takes in the answers that have arrived: unread
        ones would fill the socket's buffer."""
        try:
            self._read(MOST_OUTSTANDING)
            return bool(self._outstanding or not self._connection.can_read(timeout=0))
        except (redis.RedisError, OSError):
            return False

    def _read(self, most: int) -> None:
        """Read the answers that are there; waits only while more than ``most`` are outstanding."""
        connection, read = self._connection, self._answered
        while self._outstanding and (self._outstanding > most or connection.can_read(timeout=0)):
            try:
                connection.read_response()
            except redis.ResponseError as error:
                self._refused(error)
            self._outstanding -= 1
            self._answered += 1
            while self._unanswered and self._unanswered[0][0] <= self._answered:
                self._unanswered.popleft()
        if not self._outstanding and self._answered > read:
            if self._told and not self._troubled and not self._unsent:
                self._told.clear()
                log.info("broker is back", action="wire.up")
            self._troubled = False

    def _refused(self, error: redis.ResponseError) -> None:
        """A refused PUBLISH must not stop the worker, and what must arrive is sent again if there is hope."""
        self._tell("broker refused a command", "wire.refused", error)
        if isinstance(error, RefusedReply):
            if self._keep_refused():
                self._refused_here = True
                self._must_at = monotonic_s() + RETRY_EVERY_S
        elif malformed(error) and self._mend():
            self._keep_refused()

    def _mend(self) -> bool:
        try:
            return mend(self._client, self._namespace)
        except (redis.RedisError, OSError) as error:
            log.warning("broken keys could not be looked for", action="wire.mend", error=str(error))
            return False

    def _tell(self, what: str, action: str, error: BaseException) -> None:
        self._troubled = True
        cause = cause_of(error)
        if cause not in self._told:
            self._told.add(cause)
            log.warning(what, action=action, cause=cause, error=str(error))

    def _keep_refused(self) -> bool:
        """The command of the answer at hand is sent again with the next ones, when it is one that must arrive."""
        if self._unanswered:
            ends, must = self._unanswered[0]
            place = self._answered + len(must) - ends
            if place >= 0:
                self._unsent.append(must[place])
                return True
        return False

    def _guard(self, step: Any) -> None:
        try:
            step()
        except (redis.RedisError, OSError) as error:
            self._tell("broker is away", "wire.down", error)
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
        self._refused_here = False
