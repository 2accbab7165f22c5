"""penstock: asynchronous inference on a message queue.

Write a model, enqueue jobs, get results: interactive ones in milliseconds beside a background flood, none lost.

``import penstock`` is light on purpose (no torch, no celery, no SQL): everything heavy is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock.errors import (
    BrokerUnavailable,
    ConfigError,
    IdempotencyConflict,
    InvalidInput,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobUnsuccessful,
    Overloaded,
    PenstockError,
    Rejected,
    ResultTimeout,
    SchemaOutdated,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
    UnknownModel,
)
from penstock.functions import step
from penstock.job import Job, JobState
from penstock.lane import Lane
from penstock.model import Batching, Model, Resources, model
from penstock.pipelines.graph import Graph
from penstock.pipelines.writing.expansion import expand
from penstock.pipelines.writing.pipeline import Pipeline, pipeline
from penstock.pipelines.writing.words import fallback, quorum, race, refine, sleep, wait_for, when
from penstock.stepwise import Progress, StepModel

if TYPE_CHECKING:
    from penstock.client import AsyncClient, AsyncJobHandle, Client, JobEvent, JobHandle
    from penstock.settings import Settings
    from penstock.store.runs.cost import RunCost
    from penstock.torch_model import TorchModel

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJobHandle",
    "Batching",
    "BrokerUnavailable",
    "Client",
    "ConfigError",
    "Graph",
    "IdempotencyConflict",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobEvent",
    "JobExpired",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobState",
    "JobUnsuccessful",
    "Lane",
    "Model",
    "Overloaded",
    "PenstockError",
    "Pipeline",
    "Progress",
    "Rejected",
    "Resources",
    "ResultTimeout",
    "RunCost",
    "SchemaOutdated",
    "Settings",
    "StepModel",
    "StoreRefused",
    "StoreTimeout",
    "StoreUnavailable",
    "TorchModel",
    "UnknownModel",
    "expand",
    "fallback",
    "model",
    "pipeline",
    "quorum",
    "race",
    "refine",
    "sleep",
    "step",
    "wait_for",
    "when",
]

_LAZY = {
    "AsyncClient": "penstock.client",
    "AsyncJobHandle": "penstock.client",
    "Client": "penstock.client",
    "JobEvent": "penstock.client",
    "JobHandle": "penstock.client",
    "RunCost": "penstock.store.runs.cost",
    "Settings": "penstock.settings",
    "TorchModel": "penstock.torch_model",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
