"""What is imagined: devices, models, workers, and how they are set. PURE."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from penstock.errors import ConfigError
from penstock.lane import Lane
from penstock.loadgen.tally import Sample
from penstock.model import Batching
from penstock.policy.batching import POLICIES, BatchingPolicy
from penstock.policy.fairness import Terms

#: The name of the model where there is only one.
MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Takes ``alpha_s + beta_s * cost`` for a batch, with a relative standard deviation of ``noise``."""

    alpha_s: float
    beta_s: float
    noise: float = 0.0

    def seconds(self, cost: float, rng: Random) -> float:
        """How long one batch of this cost takes."""
        spread = max(0.1, rng.gauss(1.0, self.noise)) if self.noise else 1.0
        return (self.alpha_s + self.beta_s * cost) * spread

    def capacity(self, size: int) -> float:
        """Requests of cost 1 per second in batches of ``size``."""
        return size / (self.alpha_s + self.beta_s * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One model: how long its batches take, on any worker, and how large they may be."""

    device: Device
    batching: Batching


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The imagined system. ``overhead_s`` is added to each request's latency: the way to the worker and back.

    There is one model, of ``device`` and ``batching``, unless ``models`` names several. Every worker serves all of
    them, unless ``parts`` says for each worker which; then there are as many workers as parts. ``terms`` are those of
    tenants that are not plain.
    """

    device: Device = field(default_factory=lambda: Device(alpha_s=0.008, beta_s=0.00025))
    batching: Batching = field(default_factory=lambda: Batching(max_size=64))
    models: Mapping[str, Kind] = field(default_factory=dict)
    workers: int = 1
    parts: Sequence[Collection[str]] = ()
    policy: str = "adaptive"
    targets_s: Mapping[Lane, float] = field(default_factory=lambda: {Lane.INTERACTIVE: 0.1, Lane.BACKGROUND: 60.0})
    terms: Mapping[str, Terms] = field(default_factory=dict)
    admission: bool = False
    prefetch_batches: float = 2.0
    lead_s: float = 0.003
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        if self.parts:
            served = {name for part in self.parts for name in part}
            wrong = served ^ self.kinds.keys()
            if wrong:
                raise ConfigError(
                    f"model {min(wrong)!r} is not both named and served",
                    fix="put every model into a part, and no other",
                )

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The models by name, at least one."""
        return self.models or {MODEL: Kind(device=self.device, batching=self.batching)}

    def served(self) -> Sequence[Collection[str]]:
        """Which models each worker serves."""
        return self.parts or [tuple(self.kinds)] * self.workers

    def model_of(self, name: str | None) -> str:
        """The model that a request is for. Raises ``ConfigError`` for one that does not exist."""
        if not self.models:
            return MODEL
        if name is None:
            return next(iter(self.models))
        if name not in self.models:
            raise ConfigError(f"there is no model {name!r}", fix=f"name it, or one of {', '.join(sorted(self.models))}")
        return name


def make_policy(name: str) -> BatchingPolicy:
    """The policy of this name for one worker; raises ``ConfigError`` for one that does not exist."""
    if name not in POLICIES:
        raise ConfigError(f"there is no policy {name!r}", fix=f"use one of {', '.join(POLICIES)}")
    return POLICIES[name]()


@dataclass(slots=True, eq=False)
class Item:
    """One waiting request: what a waiting room may know of it (``policy.lines.WaitingItem``), and where it is counted.

    ``charge`` is what its tenant was charged at the claim, 0 where tenants do not share its queue.
    """

    sample: Sample
    lane: Lane
    arrived_at: float
    deadline_at: float | None
    due_at: float
    cost: float
    charge: float = 0.0
    #: Imagined models have no keys.
    key: str = ""
    weighed: bool = True
    late: bool = False

    #: Nothing imagined takes its worker down, and nothing is a step of a run.
    suspect: ClassVar[bool] = False
    start_by: ClassVar[float | None] = None

    @property
    def model(self) -> str:
        """Its model's name."""
        return self.sample.model

    @property
    def claimed_at(self) -> float:
        """When its worker took it over."""
        return self.arrived_at

    @property
    def rank(self) -> tuple[int, float]:
        """Its place among those that wait: all have one priority."""
        return 0, self.due_at

    @property
    def ends_at(self) -> float:
        """Its own deadline."""
        return float("inf") if self.deadline_at is None else self.deadline_at
