"""When requests come, and what they are: PURE, a schedule is a function of its streams and a seed.

A stream is a renewal process (its gaps: ``poisson``, ``gamma``, ``constant``) on a rate that may change over time
(``step``, ``spike``). The two are independent: unit gaps are drawn first and stretched by the rate afterwards, so that
a bursty stream can have a step as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from penstock.errors import ConfigError
from penstock.lane import LANES, Lane

#: The names of arrival processes. ``step`` and ``spike`` have Poisson gaps unless ``cv2`` says otherwise.
SHAPES = ("poisson", "gamma", "constant", "step", "spike")
#: What a request costs in the model's unit: 1, or drawn with mean 1 from a distribution with a heavy tail.
COSTS = ("one", "lognormal", "pareto")

#: Tail index of ``pareto`` (finite mean, infinite variance), and where it is cut off: the mean of many requests is to
#: settle within a benchmark's seconds.
_PARETO_INDEX, _PARETO_CUT = 1.5, 50.0
#: Standard deviation of the logarithm of ``lognormal``: a p99 about six times the mean.
_LOG_SIGMA = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a schedule.

    ``at_s`` is seconds after the start; ``model`` is ``None`` for the model of the run, ``input`` unless a trace has
    one.
    """

    at_s: float
    lane: Lane = Lane.INTERACTIVE
    tenant: str = "default"
    model: str | None = None
    cost: float = 1.0
    input: Any = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One source of requests.

    ``rate`` is the mean rate per second before a step or beside a spike. ``cv2`` is the squared coefficient of
    variation of the gaps (1 is Poisson). The rate is ``factor`` times as high from ``at_s`` on, for ``for_s`` seconds;
    a ``step`` begins half-way and lasts to the end, a ``spike`` begins after a third and lasts three seconds, unless
    told otherwise. ``deadline_s`` is given to each job, counted from its submission.
    """

    rate: float
    arrivals: str = "poisson"
    cv2: float | None = None
    factor: float | None = None
    at_s: float | None = None
    for_s: float | None = None
    lane: Lane = Lane.INTERACTIVE
    tenant: str = "default"
    model: str | None = None
    cost: str = "one"
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.arrivals not in SHAPES:
            raise ConfigError(f"there are no arrivals {self.arrivals!r}", fix=f"use one of {', '.join(SHAPES)}")
        if self.cost not in COSTS:
            raise ConfigError(f"there is no cost {self.cost!r}", fix=f"use one of {', '.join(COSTS)}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ConfigError(f"rate={self.rate!r} is no rate", fix="pass requests per second, more than 0")
        for name in ("cv2", "factor"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name}={value!r} is not usable", fix="pass a number above 0")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Stream:
        """A stream as JSON has it; raises ``ConfigError`` for a name that it does not know."""
        _only(values, cls)
        return cls(**{**values, "lane": _lane(values.get("lane", Lane.INTERACTIVE))})


def schedule(streams: Sequence[Stream], duration_s: float, *, rng: Callable[[str], Random]) -> list[Arrival]:
    """The requests of all streams within ``duration_s``, in the order of their times.

    ``rng(name)`` gives a fresh source of randomness that depends on the name (and a seed) alone; see ``seeds``.
    Streams do not share theirs: one that is added leaves the others as they were.
    """
    arrivals = []
    for index, stream in enumerate(streams):
        gaps, costs = rng(f"{index}:gaps"), rng(f"{index}:costs")
        for at_s in offsets(stream, duration_s, gaps):
            arrivals.append(
                Arrival(
                    at_s=at_s,
                    lane=stream.lane,
                    tenant=stream.tenant,
                    model=stream.model,
                    cost=draw_cost(stream.cost, costs),
                    deadline_s=stream.deadline_s,
                )
            )
    arrivals.sort(key=lambda arrival: arrival.at_s)
    return arrivals


def offsets(stream: Stream, duration_s: float, rng: Random) -> Iterator[float]:
    """The times of one stream's requests, seconds, rising."""
    gap = _gaps(stream, rng)
    pieces = _pieces(stream, duration_s)
    # The requests that are "due" after t seconds are the integral of the rate: unit gaps are laid on that axis and
    # carried back to time, piece by piece.
    due = gap()
    passed = 0.0
    for begins, ends, rate in pieces:
        while due < passed + (ends - begins) * rate:
            yield begins + (due - passed) / rate
            due += gap()
        passed += (ends - begins) * rate


def draw_cost(name: str, rng: Random) -> float:
    """One request's cost, at least 0.05, with mean about 1."""
    if name == "lognormal":
        return max(0.05, rng.lognormvariate(-_LOG_SIGMA * _LOG_SIGMA / 2, _LOG_SIGMA))
    if name == "pareto":
        # The scale gives the mean of the uncut distribution: index * scale / (index - 1) = 1.
        return min(_PARETO_CUT, (_PARETO_INDEX - 1) / _PARETO_INDEX * rng.paretovariate(_PARETO_INDEX))
    return 1.0


def read_trace(lines: Iterable[str]) -> list[Arrival]:
    """A recorded trace: a JSON object a line, ``{"at_s": 0.25, "lane": "interactive", "tenant": "a", "cost": 3}``.

    Only ``at_s`` must be there; ``input`` and ``deadline_s`` may be. Lines need not be in order; empty ones are passed
    over. Raises ``ConfigError`` with the number of the first line that is wrong.
    """
    from penstock.jsontext import NotJSON, loads

    arrivals = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = loads(line)
            if not isinstance(values, dict):
                raise ConfigError("it is no object", fix="")
            _only(values, Arrival)
            at_s, cost = float(values["at_s"]), float(values.get("cost", 1.0))
            if not (math.isfinite(at_s) and at_s >= 0 and math.isfinite(cost) and cost > 0):
                raise ConfigError("at_s must be 0 or more and cost more than 0", fix="")
            arrivals.append(
                Arrival(**{**values, "at_s": at_s, "cost": cost, "lane": _lane(values.get("lane", Lane.INTERACTIVE))})
            )
        except (NotJSON, KeyError, TypeError, ValueError, ConfigError) as error:
            said = error.message if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"line {number} of the trace is not usable: {said}",
                fix='a line is {"at_s": 0.25} with lane, tenant, cost, input or deadline_s as it needs them',
            ) from None
    arrivals.sort(key=lambda arrival: arrival.at_s)
    return arrivals


def _gaps(stream: Stream, rng: Random) -> Callable[[], float]:
    """Draws gaps of mean 1."""
    cv2 = stream.cv2
    if stream.arrivals == "constant":
        return lambda: 1.0
    if stream.arrivals == "gamma":
        cv2 = 4.0 if cv2 is None else cv2
    if cv2 is None or cv2 == 1.0:
        return lambda: rng.expovariate(1.0)
    return lambda: rng.gammavariate(1.0 / cv2, cv2)


def _pieces(stream: Stream, duration_s: float) -> list[tuple[float, float, float]]:
    """``(begins, ends, rate)``, gapless from 0 to ``duration_s``."""
    default = {"step": (5.0, duration_s / 2, duration_s), "spike": (3.0, duration_s / 3, 3.0)}
    if stream.arrivals not in default:
        return [(0.0, duration_s, stream.rate)]
    factor, at_s, for_s = default[stream.arrivals]
    factor = stream.factor or factor
    begins = min(duration_s, at_s if stream.at_s is None else stream.at_s)
    ends = min(duration_s, begins + (for_s if stream.for_s is None else stream.for_s))
    return [(0.0, begins, stream.rate), (begins, ends, stream.rate * factor), (ends, duration_s, stream.rate)]


def _lane(lane: Any) -> Lane:
    try:
        return Lane(lane)
    except ValueError:
        raise ConfigError(f"there is no lane {lane!r}", fix=f"use one of {', '.join(LANES)}") from None


def _only(values: Mapping[str, Any], cls: type[Arrival] | type[Stream]) -> None:
    known = [field.name for field in fields(cls)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is unknown", fix=f"known are {', '.join(known)}")
