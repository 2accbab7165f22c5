"""Settings of pools and of the autoscaler. ``penstock.settings`` has them among its own.

A pool is a group of workers that serve the same models on the same kind of device. A pool that is not named here has
the defaults; ``Resources(pool=…)`` of a model is enough to make one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from penstock import sources
from penstock.bounds import Port, Span, Threads, Wait, Weight
from penstock.errors import ConfigError
from penstock.lane import Lane
from penstock.model import bytes_of
from penstock.sources import Section

#: A pool's name is part of workers' names, of labels and of file names.
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
#: Workers beyond those that are wanted.
Surge = Annotated[int, Field(ge=0, le=1000)]
#: Workers of one pool, and workers that share one device.
Workers = Annotated[int, Field(ge=0, le=10_000)]
Share = Annotated[int, Field(ge=1, le=64)]


class PoolTargets(Section):
    """A pool's own service levels."""

    interactive: Span | None = Field(None, description="latency target, seconds; default: `lanes.interactive.target`")
    background: Span | None = Field(None, description="the same of background jobs")


class PoolSettings(Section):
    """Workers that serve the same models on the same kind of device: one section per pool, `[pools.gpu]`."""

    models: list[str] = Field(
        default_factory=list,
        description="models and functions that it serves, whatever their `Resources` say; others keep to those",
    )
    device: str | None = Field(
        None,
        pattern="^[a-z]+$",
        description="kind of device, cpu or cuda; default: cpu for the pool `cpu`, else CUDA where there is one",
    )
    devices: list[str] = Field(
        default_factory=list, description="which of a machine's devices it may take: 0, 1, or UUIDs; default: all"
    )
    share: Share = Field(1, description="workers that share one device")
    device_memory: str | None = Field(
        None, description="device memory for models, per worker (20GiB): what is heavier is not served here"
    )
    memory: str | None = Field(None, description="memory ceiling of each worker's process (8GiB); default: none")
    threads: Threads | None = Field(None, description="threads per worker; default: its part of the machine's cores")
    min: Workers = Field(1, description="fewest workers; 0: none while there is nothing to do")
    max: Workers | None = Field(None, description="most workers; default: as many as devices and memory allow")
    warm: Workers = Field(0, description="fewest spare workers: loaded, and waiting to be needed")
    surge: Surge = Field(
        1, description="workers beyond those that are wanted while they become another revision; 0: no device is free"
    )
    weight: Weight = Field(1.0, description="its part of a machine that is too small for all pools, relative to theirs")
    split: bool = Field(
        False, description="under lasting pressure of background jobs, some of its workers do interactive ones only"
    )
    targets: PoolTargets = PoolTargets()

    _split_words = field_validator("models", mode="before")(sources.words)

    @field_validator("devices", mode="before")
    @classmethod
    def _devices(cls, value: Any) -> Any:
        value = sources.words(str(value) if isinstance(value, int) else value)
        return [str(each) if isinstance(each, int) else each for each in value] if isinstance(value, list) else value

    @field_validator("device", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        value = sources.blank(value)
        if isinstance(value, str) and ":" in value:
            raise ValueError('this is a kind of device, "cpu" or "cuda"; which of them is said by `devices`')
        return value

    @field_validator("memory", "device_memory", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        value = sources.blank(value)
        if value is None or isinstance(value, bool):
            return value
        try:
            size = bytes_of(str(value), "")
        except ConfigError as error:
            raise ValueError(str(error.fix)) from None
        if size < 1:
            raise ValueError('write it as "512MiB" or "2GiB"')
        return str(value)

    @model_validator(mode="after")
    def _in_order(self) -> PoolSettings:
        for name in ("min", "warm"):
            if self.max is not None and getattr(self, name) > self.max:
                raise ValueError(f"{name} is {getattr(self, name)}, more than max, which is {self.max}")
        if self.devices and self.device == "cpu":
            raise ValueError('devices are named, and device is "cpu": remove one of the two')
        return self

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else bytes_of(self.memory, "memory")

    @property
    def device_memory_bytes(self) -> int | None:
        """``device_memory`` in bytes."""
        return None if self.device_memory is None else bytes_of(self.device_memory, "device_memory")

    def target_s(self, lane: Lane, default: float) -> float:
        """Its target of a lane; ``default`` is the lane's own."""
        own: float | None = getattr(self.targets, lane.value)
        return default if own is None else own


class PushSettings(Section):
    """KEDA's `external-push`: a gRPC service of the autoscaler that tells how many workers each pool should have."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port | None = Field(
        None, description="port to listen on; 0: any free one; default: none is served. It needs the extra `grpcio`"
    )
    certificate: str | None = Field(None, description="TLS: the server's certificate, with its chain, a PEM file")
    key: str | None = Field(None, description="TLS: its private key, a PEM file")
    client_ca: str | None = Field(
        None, description="TLS: only clients with a certificate of this authority may ask, a PEM file"
    )

    _blank = field_validator("certificate", "key", "client_ca", mode="before")(sources.blank)

    @model_validator(mode="after")
    def _whole(self) -> PushSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: name both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca asks for TLS: name certificate and key, too")
        return self


class KubernetesSettings(Section):
    """Workers as Jobs of a Kubernetes cluster; the chart sets all of it."""

    namespace: str | None = Field(
        None, description="namespace of the Jobs; default: that of the service account, or of the kubeconfig's context"
    )
    templates: str = Field(
        "/etc/penstock/pools", min_length=1, description="folder of pod templates, `POOL.json`, one for each pool"
    )
    fleet: str = Field(
        "penstock-fleet",
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        description="ConfigMap that owns the Jobs and remembers the newest leader",
    )
    keep_s: Annotated[int, Field(ge=0, le=86400)] = Field(
        300, description="how long a Job is kept after its end, with its log, seconds"
    )

    _blank = field_validator("namespace", mode="before")(sources.blank)


class AutoscalerSettings(Section):
    """How many workers each pool has."""

    backend: str = Field(
        "local", pattern="^(local|kubernetes|external)$", description="where workers run: local, kubernetes or external"
    )
    every_s: Wait = Field(1.0, description="seconds between two looks")
    lost_after_s: Span = Field(600.0, description="a pool is not made smaller on signals that are older, seconds")
    lease_s: Wait = Field(10.0, description="an autoscaler that is silent for so long is replaced by another, seconds")
    start_s: Span = Field(600.0, description="a worker that is not ready after so long is not coming, seconds")
    push: PushSettings = PushSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()


def checked(pools: Mapping[str, PoolSettings]) -> Mapping[str, PoolSettings]:
    """The pools, if each has a name that can be used and no model is in two. Raises ``ValueError``."""
    for name in pools:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no name of a pool: lower-case letters, digits, - and _, up to 63")
    seen: dict[str, str] = {}
    for model, pool in _places(pools):
        if seen.setdefault(model, pool) != pool:
            raise ValueError(f"model {model!r:.80} is in pools {seen[model]} and {pool}: name it in one of them")
    return pools


def _places(pools: Mapping[str, PoolSettings]) -> Iterator[tuple[str, str]]:
    return ((model, name) for name, pool in pools.items() for model in pool.models)
