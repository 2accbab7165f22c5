"""What Redis refuses for the time being, told apart from what it will never accept.

A failover, a full disk or memory, too few replicas, a script that runs too long, an ACL that is being changed: the
server answers, but with an error that ends by itself. To whoever uses the connection that is a lost connection: it is
closed (the address may lead to another server by now) and tried again. So such an error is raised as ``Refused``, a
``redis.ConnectionError``, by every connection that ``refusing`` has made.
"""

from __future__ import annotations

import re
from typing import Any

import redis

#: First words of passing refusals.
PASSING = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "DENIED",
        "EXECABORT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "REDIRECT",
        "TRYAGAIN",
        "UNBLOCKED",
        "WRONGPASS",
    }
)

#: Those of them that pass only when somebody changes the rights of the user, or who is let in.
RIGHTS = frozenset({"DENIED", "NOAUTH", "NOPERM", "WRONGPASS"})

# A script's error quotes what the command inside it met: Redis 6 behind a dash, and rights in words only.
_QUOTED = re.compile(rf"(?:^|[\s:]-?)({'|'.join(sorted(PASSING))})\s")
# What every new connection says of itself; a user need not have the right to, and the client library goes on without.
_INTRODUCTION = "run the 'client"

_NO_RIGHTS = ("The user executing the script can't", "ACL failure in script")

# What Redis says when a key has another type, or text where a number should be; scripts fail with words of their own.
_MALFORMED = (
    "WRONGTYPE",
    "not an integer",
    "not a float",
    "not a valid float",
    "would overflow",
    "NaN or Infinity",
    "Error running script",
    "user_script",
    "Invalid stream ID",
)


class Refused(redis.ConnectionError):
    """The server answers, and refuses for the time being. ``code`` is its word for the reason."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class RefusedReply(redis.ResponseError):
    """The same for whoever looks at each of many replies itself: it ends neither the reading nor the connection."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


def passing(text: str) -> str | None:
    """The word of a passing refusal, from the text of an error reply; ``None`` for other errors. PURE."""
    first = text.partition(" ")[0].lstrip("-")
    if first in PASSING:
        return None if first == "NOPERM" and _INTRODUCTION in text else first
    if any(words in text for words in _NO_RIGHTS):
        return "NOPERM"
    quoted = _QUOTED.search(text) if "script" in text else None
    return quoted[1] if quoted is not None else None


def cause_of(error: BaseException) -> str:
    """A word for an error, the same for errors of the same cause. PURE."""
    if isinstance(error, Refused | RefusedReply):
        return error.code
    text = str(error)
    return passing(text) or (f"{type(error).__name__}: {text}"[:100])


def malformed(error: BaseException) -> bool:
    """Whether an error reply can come from a key that somebody has given another type or text. PURE."""
    if not isinstance(error, redis.ResponseError) or isinstance(error, redis.exceptions.NoScriptError | RefusedReply):
        return False
    text = str(error)
    return passing(text) is None and any(words in text for words in _MALFORMED)


class _Refusing:
    """A connection whose parser knows passing refusals. Costs nothing where no error is read."""

    _parser_type: Any

    def set_parser(self, parser_class: Any) -> None:
        known = type(parser_class.__name__, (self._parser_type, parser_class), {})
        super().set_parser(known)  # type: ignore[misc]


class _Parser:
    _refused: Any = Refused

    @classmethod
    def parse_error(cls, response: str) -> Exception:
        code = passing(response)
        if code is not None:
            refused: Exception = cls._refused(response, code)
            return refused
        error: Exception = super().parse_error(response)  # type: ignore[misc]
        return error


class _ReplyParser(_Parser):
    _refused = RefusedReply


def refusing(connection_class: Any, *, replies: bool = False) -> Any:
    """The class of connection that raises ``Refused`` for passing refusals; with ``replies``, ``RefusedReply``."""
    if issubclass(connection_class, _Refusing):
        return connection_class
    parser = _ReplyParser if replies else _Parser
    return type(connection_class.__name__, (_Refusing, connection_class), {"_parser_type": parser})


def refuse(client: redis.Redis, *, replies: bool = False) -> redis.Redis:
    """Let the connections that a client is yet to make know passing refusals. Returns the client."""
    pool: Any = client.connection_pool
    pool.connection_class = refusing(pool.connection_class, replies=replies)
    return client
