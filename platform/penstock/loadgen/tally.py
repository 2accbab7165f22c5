"""What became of the requests, counted: PURE.

Latency runs from the *intended* send time, so that a generator or a system that falls behind cannot hide it
(coordinated omission). Goodput is what came back correct and in time, over what was **offered**: refusals, failures
and late results are misses alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: A run whose generator lagged more than this at its 99th percentile measured the generator, seconds.
MOST_LAG_S = 0.001


class Fate(StrEnum):
    """What became of one request."""

    OK = "ok"
    #: It came back with another output than was expected.
    WRONG = "wrong"
    #: It was not taken on (``Overloaded``).
    REFUSED = "refused"
    EXPIRED = "expired"
    FAILED = "failed"
    #: Nobody knows: the run was over first.
    UNFINISHED = "unfinished"


@dataclass(slots=True)
class Sample:
    """One request. ``latency_s`` is from the intended time to the end, whichever it was; ``None`` without one.

    ``answer_s`` is how long the submission itself took, from the intended time to the job's id or the refusal.
    """

    at_s: float
    lane: str
    tenant: str
    cost: float = 1.0
    model: str = ""
    fate: Fate = Fate.UNFINISHED
    latency_s: float | None = None
    answer_s: float | None = None
    id: str | None = None
    error: str | None = None


def report(
    samples: Sequence[Sample],
    *,
    duration_s: float,
    target_s: float | Mapping[str, float],
    lags_s: Sequence[float] = (),
    bucket_s: float = 0.25,
) -> dict[str, Any]:
    """Everything about a run, JSON-ready. ``target_s`` is one for all, or one per lane."""

    def target(sample: Sample) -> float:
        return target_s if isinstance(target_s, (int, float)) else target_s.get(sample.lane, float("inf"))

    lag = sorted(lags_s)
    lag_p99 = percentile(lag, 99)
    return {
        "duration_s": duration_s,
        "target_ms": _milli(target_s)
        if isinstance(target_s, (int, float))
        else {k: v * 1e3 for k, v in target_s.items()},
        "void": lag_p99 is not None and lag_p99 > MOST_LAG_S,
        "lag": {
            "p50_ms": _milli(percentile(lag, 50)),
            "p99_ms": _milli(lag_p99),
            "max_ms": _milli(lag[-1] if lag else None),
        },
        **figures(samples, duration_s=duration_s, target=target),
        "lanes": _grouped(samples, lambda sample: sample.lane, duration_s, target),
        "tenants": _grouped(samples, lambda sample: sample.tenant, duration_s, target),
        "models": _grouped(samples, lambda sample: sample.model, duration_s, target),
        "timeline": timeline(samples, target=target, duration_s=duration_s, bucket_s=bucket_s),
    }


def figures(samples: Iterable[Sample], *, duration_s: float, target: Callable[[Sample], float]) -> dict[str, Any]:
    """The figures of one group of requests. Percentiles are of the correct results; ``goodput`` counts the others."""
    samples = list(samples)
    good = sorted(s.latency_s for s in samples if s.fate is Fate.OK and s.latency_s is not None)
    in_time = sum(1 for s in samples if is_in_time(s, target(s)))
    fates = Counter(sample.fate.value for sample in samples)
    answers = sorted(s.answer_s for s in samples if s.answer_s is not None)
    refusals = sorted(s.answer_s for s in samples if s.fate is Fate.REFUSED and s.answer_s is not None)
    return {
        "offered": len(samples),
        "offered_per_s": len(samples) / duration_s,
        "in_time": in_time,
        "goodput": in_time / len(samples) if samples else None,
        "goodput_per_s": in_time / duration_s,
        **{fate.value: fates.get(fate.value, 0) for fate in Fate},
        "mean_ms": _milli(sum(good) / len(good) if good else None),
        **{f"p{percent}_ms": _milli(percentile(good, percent)) for percent in (50, 95, 99)},
        "max_ms": _milli(good[-1] if good else None),
        "submit_p50_ms": _milli(percentile(answers, 50)),
        "submit_p99_ms": _milli(percentile(answers, 99)),
        "refusal_p99_ms": _milli(percentile(refusals, 99)),
        "errors": dict(Counter(sample.error for sample in samples if sample.error).most_common(5)),
    }


def timeline(
    samples: Iterable[Sample], *, target: Callable[[Sample], float], duration_s: float, bucket_s: float
) -> list[dict[str, Any]]:
    """Offered and in time by intended time, so that a dip shows when it was caused."""
    count = max(1, -int(-duration_s // bucket_s))
    buckets: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        buckets[min(count - 1, int(sample.at_s / bucket_s))].append(sample)
    rows = []
    for index, bucket in enumerate(buckets):
        good = sorted(s.latency_s for s in bucket if s.fate is Fate.OK and s.latency_s is not None)
        rows.append(
            {
                "at_s": round(index * bucket_s, 6),
                "offered": len(bucket),
                "in_time": sum(1 for s in bucket if is_in_time(s, target(s))),
                "refused": sum(1 for s in bucket if s.fate is Fate.REFUSED),
                "p99_ms": _milli(percentile(good, 99)),
            }
        )
    return rows


def batches(rows: Iterable[tuple[int | None, str | None]]) -> dict[str, Any]:
    """From the ``(batch_size, batch_reason)`` of finished jobs: how large batches were, and why they were released.

    A batch of ``n`` has ``n`` jobs, each of which counts ``1/n`` of a batch.
    """
    known = [(size, reason or "") for size, reason in rows if size]
    if not known:
        return {}
    sizes = sorted(size for size, _ in known)
    count = sum(1.0 / size for size in sizes)
    reasons: dict[str, float] = {}
    for size, reason in known:
        reasons[reason] = reasons.get(reason, 0.0) + 1.0 / size
    return {
        "jobs": len(sizes),
        "batches": round(count, 1),
        "mean_size": len(sizes) / count,
        "p50_of_job": percentile(sizes, 50),
        "max_size": sizes[-1],
        "reasons": {reason: round(share / count, 4) for reason, share in sorted(reasons.items())},
    }


def is_in_time(sample: Sample, target_s: float) -> bool:
    """Correct, and within the target."""
    return sample.fate is Fate.OK and sample.latency_s is not None and sample.latency_s <= target_s


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile of an ordered list; ``None`` of an empty one."""
    if not ordered:
        return None
    return ordered[max(0, int(-(-len(ordered) * percent // 100)) - 1)]


def _grouped(
    samples: Iterable[Sample], key: Callable[[Sample], str], duration_s: float, target: Callable[[Sample], float]
) -> dict[str, Any]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return {name: figures(group, duration_s=duration_s, target=target) for name, group in sorted(groups.items())}


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)
