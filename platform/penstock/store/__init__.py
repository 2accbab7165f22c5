"""The store: jobs, worker leases and webhook events in SQL, which is the truth about all of them.

In: verbs on ids and batches, from clients (through ``dispatch``), workers and dispatchers. Out: what was changed. A
state is only ever changed by a guarded UPDATE: whoever comes late or twice changes nothing.

Read on: ``facade`` (the verbs and their promises), ``producers``, ``claims``, ``relay``, ``users``, ``workers``,
``deliveries``, ``retention`` (their statements), ``events`` (a job's end, told to a webhook), ``tables`` (the schema),
``sql`` (one text for both databases), ``engine``, ``sqlite``, ``postgres`` (connections and transactions).
"""

from penstock.store.engine import SCHEMA_VERSION
from penstock.store.facade import PUBLISH_LEASE_S, Store
from penstock.store.records import (
    Claimed,
    ClaimResult,
    Count,
    Delivery,
    Inserted,
    LeftOver,
    Settled,
    WorkerInfo,
)

__all__ = [
    "PUBLISH_LEASE_S",
    "SCHEMA_VERSION",
    "ClaimResult",
    "Claimed",
    "Count",
    "Delivery",
    "Inserted",
    "LeftOver",
    "Settled",
    "Store",
    "WorkerInfo",
]
