"""A service that starts before its servers waits for them: one line per try, for as long as it takes.

What does not pass by itself is not waited for: a wrong password, a database or a user that there is not, tables of
another version. Such an error ends the service with its fix, and whoever keeps the service running starts it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import redis

from penstock.errors import BrokerUnavailable, Unreachable

T = TypeVar("T")

#: First and longest pause between two tries, seconds.
FIRST_S, LONGEST_S = 1.0, 5.0

#: First words of errors by which a Redis says that it will do later: while it loads its data, say, or fails over.
_PASSING = frozenset(
    {"LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "READONLY", "MISCONF", "OOM", "NOREPLICAS"}
)


def until_reachable(
    call: Callable[[], T], *, tell: Callable[[Unreachable, float], None], pause: Callable[[float], None]
) -> T:
    """What ``call`` gives, as soon as its server lets it. Raises what does not pass by itself.

    ``tell`` hears of each failed try and of the pause behind it, seconds. ``pause`` waits, and may raise to end it all.
    """
    pause_s = FIRST_S
    while True:
        try:
            return call()
        except Unreachable as error:
            if not passes(error):
                raise
            tell(error, pause_s)
        pause(pause_s)
        pause_s = min(2 * pause_s, LONGEST_S)


def passes(error: Unreachable) -> bool:
    """Whether time alone may mend it."""
    cause = error.__cause__
    if not isinstance(error, BrokerUnavailable) or not isinstance(cause, redis.RedisError):
        return error.retryable
    if isinstance(cause, redis.ResponseError):
        return str(cause).partition(" ")[0] in _PASSING
    return not isinstance(cause, redis.AuthenticationError) and "CERTIFICATE_VERIFY_FAILED" not in str(cause)
