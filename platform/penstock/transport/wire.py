"""Commands to Redis in one round trip, at a fraction of redis-py's cost per command.

The connections, with their TLS, authentication, Sentinel look-ups and replies, are redis-py's own; only the packing of
commands and the loop over the replies are ours, since they are most of what a small command costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from penstock.transport.refusals import malformed

Arg = str | bytes | int | float


def pack(*args: Arg) -> bytes:
    """One command as Redis reads it."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if type(arg) is not bytes:
            arg = str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


class Wire:
    """Sends packed commands over a client's connection pool. Thread-safe.

    With a ``namespace``, commands that were refused since somebody has broken a key of it are sent once more when it
    could be repaired: all of them, so some may be executed twice. (A claim that is refused has claimed nothing.)
    """

    def __init__(self, client: redis.Redis, namespace: str | None = None) -> None:
        self._client = client
        self._pool: Any = client.connection_pool
        self._namespace = namespace

    def __call__(self, commands: Sequence[bytes], *, replies: int | None = None, retry: bool = False) -> list[Any]:
        """Send all commands and read their replies: as many as there are commands, unless told otherwise.

        Raises the first error among the replies, after having read them all; else what redis-py raises for a lost
        connection. With ``retry`` everything is sent once more when the connection was lost, so it may be executed
        twice.
        """
        try:
            return self._send(commands, replies, retry)
        except redis.ResponseError as error:
            if self._namespace is None or not malformed(error):
                raise
            from penstock.transport.mend import mend  # it is built on this module

            if not mend(self._client, self._namespace):
                raise
        return self._send(commands, replies, retry)

    def _send(self, commands: Sequence[bytes], replies: int | None, retry: bool) -> list[Any]:
        connection = self._pool.get_connection()
        try:
            try:
                return self._exchange(connection, commands, replies)
            except (redis.ConnectionError, ConnectionError):
                connection.disconnect()
                if not retry:
                    raise
                return self._exchange(connection, commands, replies)
        except redis.ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # replies may be on their way that nobody will read
            raise
        finally:
            self._pool.release(connection)

    def _exchange(self, connection: Any, commands: Sequence[bytes], replies: int | None) -> list[Any]:
        connection.send_packed_command((b"".join(commands),))
        answers: list[Any] = []
        failed: redis.ResponseError | None = None
        for _ in range(len(commands) if replies is None else replies):
            try:
                answers.append(connection.read_response())
            except redis.ResponseError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return answers
