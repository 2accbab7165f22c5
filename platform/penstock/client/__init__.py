"""The SDK: ``Client``, ``AsyncClient`` and the handles of jobs.

A call goes down through ``dispatch.service`` into SQL and to the broker; results come back through ``push``, a Redis
subscription, and are read from SQL where the push had a gap. How waiting works is written once, in ``_flow``, and
driven by both clients through ``_drive``.
"""

from penstock.client.async_client import AsyncClient
from penstock.client.client import Client
from penstock.client.events import JobEvent
from penstock.client.handle import AsyncJobHandle, JobHandle
from penstock.dispatch.bulk import Bulk

__all__ = ["AsyncClient", "AsyncJobHandle", "Bulk", "Client", "JobEvent", "JobHandle"]
