"""Stock Celery with tuned priority queues, on the simulated device: the other side of ``benchmarks/isolation.py``.

One job at a time (stock Celery has no batches), prefetch 1, late acknowledgements, results in Redis, task events on.
Redis priorities as kombu's documentation has them: a list per priority, looked at in their order. Nothing of penstock
is imported here. ``PRIORITY`` says which number goes first: with Redis it is the smallest.
"""

from __future__ import annotations

import os
import time

from celery import Celery

PRIORITY = {"interactive": 0, "background": 9}

ALPHA_S = float(os.environ.get("BENCH_ALPHA_MS", "8")) / 1e3
BETA_S = float(os.environ.get("BENCH_BETA_MS", "0.25")) / 1e3

app = Celery(
    "device",
    broker=os.environ.get("BENCH_BROKER_URL", "redis://localhost:6379/1"),
    backend=os.environ.get("BENCH_RESULT_URL", "redis://localhost:6379/2"),
)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"priority_steps": [0, 9], "sep": ":", "queue_order_strategy": "priority"},
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)


@app.task(name="device")
def device(number: int) -> int:
    """Adds one, slowly."""
    time.sleep(ALPHA_S + BETA_S)
    return number + 1
