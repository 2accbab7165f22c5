"""Every metric that penstock exposes, in one table. ``docs/operations.md`` has the same; a test compares them.

Names follow Prometheus: base units, ``_total`` for counters. No label holds a job's id, and the only label whose values
others choose, ``tenant``, is bounded (``tally.Fold``), so that the number of series does not grow with the traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Bounds of histograms: seconds, items, shares.
DURATION_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SIZE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SHARE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Kind(StrEnum):
    """What Prometheus calls the type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. ``bounds`` are the upper ends of a histogram's buckets, in its unit."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, meaning, labels)


def _histogram(name: str, meaning: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(name, Kind.HISTOGRAM, meaning, ("model",), bounds)


# Batches, by the worker that ran them --------------------------------------------------------------------------

BATCHES = _counter(
    "penstock_batches_total", "Batches that ran (stepwise: groups begun, joined, split), by reason.", "model", "reason"
)
BATCH_SIZE = _histogram("penstock_batch_size", "Jobs in a batch.", SIZE)
BATCH_FILL = _histogram("penstock_batch_fill_ratio", "Jobs in a batch over the model's max_size.", SHARE)
BATCH_WAIT = _histogram(
    "penstock_batch_wait_seconds", "How long the oldest job of a batch had been in the worker.", DURATION_S
)
BATCH_DURATION = _histogram(
    "penstock_batch_duration_seconds", "How long a batch kept the device: claim, preparation, prediction.", DURATION_S
)
STEP_SIZE = _histogram("penstock_step_size", "Sequences in a step of a step-wise model.", SIZE)
STEP_DURATION = _histogram("penstock_step_duration_seconds", "How long a step of a step-wise model took.", DURATION_S)

# Jobs ----------------------------------------------------------------------------------------------------------

JOBS_SETTLED = _counter(
    "penstock_jobs_settled_total",
    "Jobs that ended: succeeded, failed, cancelled or expired.",
    "model",
    "lane",
    "outcome",
)
JOBS_REQUEUED = _counter(
    "penstock_jobs_requeued_total",
    "Attempts that ended without an outcome: retried, given back or rescued.",
    "model",
    "lane",
)
DEVICE_SECONDS = _counter(
    "penstock_device_seconds_total",
    "Device time of jobs: each has its share of its batch, by cost.",
    "model",
    "lane",
    "tenant",
)

# What workers have learned -------------------------------------------------------------------------------------

LATENCY_ALPHA = _gauge("penstock_latency_alpha_seconds", "Learned time of an empty batch (or step).", "model")
LATENCY_BETA = _gauge("penstock_latency_beta_seconds", "Learned time of one more unit of cost (or sequence).", "model")
LATENCY_MARGIN = _gauge("penstock_latency_margin_ratio", "Factor within which 98 % of the batches end.", "model")
LATENCY_BATCHES = _gauge(
    "penstock_latency_batches", "Batches (or steps) that the line was learned from, earlier workers' included.", "model"
)
PREDICTION_ERROR = _gauge(
    "penstock_prediction_error_ratio",
    "|actual - predicted| / predicted of the last batches (or steps): median and 99th percentile.",
    "model",
    "quantile",
)

# The broker, by the dispatcher, as it is when asked ------------------------------------------------------------

QUEUE_DEPTH = _gauge("penstock_queue_depth", "Messages that are ready at the broker.", "model", "lane")
JOBS_IN_FLIGHT = _gauge(
    "penstock_jobs_in_flight", "Messages that workers have claimed and not acknowledged.", "model", "lane"
)
REACHABLE = _gauge("penstock_reachable", "1 when the server answered just now, else 0.", "server")

# What an autoscaler wants, by each one that runs; who does not lead tells what the leader has stored ----------------

DESIRED_WORKERS = _gauge(
    "penstock_desired_workers", "Workers that the autoscaler wants; absent while nobody decides.", "pool"
)
WORKERS = _gauge("penstock_workers", "Workers as the autoscaler sees them.", "pool", "state")
LOAD_AGE = _gauge("penstock_load_age_seconds", "Age of what was last seen of the pool's work.", "pool")
DECISION_AGE = _gauge("penstock_decision_age_seconds", "Age of the last decision on the pool.", "pool")
AUTOSCALER_LEADS = _gauge("penstock_autoscaler_leads", "1 where this autoscaler decides, 0 where it waits its turn.")

TABLE = (
    BATCHES,
    BATCH_SIZE,
    BATCH_FILL,
    BATCH_WAIT,
    BATCH_DURATION,
    STEP_SIZE,
    STEP_DURATION,
    JOBS_SETTLED,
    JOBS_REQUEUED,
    DEVICE_SECONDS,
    LATENCY_ALPHA,
    LATENCY_BETA,
    LATENCY_MARGIN,
    LATENCY_BATCHES,
    PREDICTION_ERROR,
    QUEUE_DEPTH,
    JOBS_IN_FLIGHT,
    REACHABLE,
    DESIRED_WORKERS,
    WORKERS,
    LOAD_AGE,
    DECISION_AGE,
    AUTOSCALER_LEADS,
)
