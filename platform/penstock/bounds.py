"""Bounds of every number in the settings, by what kind of number it is.

A setting without them ends in a traceback somewhere else: a wait of ``inf`` seconds in a lock, 10**20 rows in a driver.
The bounds are not advice. They leave out what no part of penstock, nor the servers behind it, can work with.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

#: A hundred years, seconds: times beyond the year 9999 have no date.
LONGEST_S = 100 * 365.25 * 86400
#: Longest wait and rhythm, seconds: a day. Locks, selectors and Redis count in milliseconds of 31 bits.
LONGEST_WAIT_S = 86400.0

#: How long something waits, or how often it comes: Redis takes no less than a millisecond.
Wait = Annotated[float, Field(ge=0.001, le=LONGEST_WAIT_S, allow_inf_nan=False)]
#: A wait that may be none.
Pause = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)]
#: How long something lasts or is kept: nothing waits for its end.
Span = Annotated[float, Field(ge=0.001, le=LONGEST_S, allow_inf_nan=False)]
#: The size of a value as JSON: Postgres refuses jsonb beyond 256 MiB.
Bytes = Annotated[int, Field(ge=1, le=2**28)]
#: How many of something are held in memory or in flight.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
#: Retries: none is a number, too.
Budget = Annotated[int, Field(ge=0, le=1_000_000)]
#: Threads or connections.
Threads = Annotated[int, Field(ge=1, le=1000)]
#: Factor, relative to others.
Weight = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
