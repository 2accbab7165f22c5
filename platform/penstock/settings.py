"""Settings: read once, at the entry point, and passed in.

Order: keyword arguments (the CLI's flags) > ``PENSTOCK_*`` variables (``__`` nests) > the secrets directory
(``PENSTOCK_SECRETS_DIR``) > ``penstock.toml`` in the working directory (or ``PENSTOCK_CONFIG``). A misspelt name is
an error wherever it stands. With nothing set, broker, database and files live under ``home``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from penstock import sources
from penstock.address import quoted, socket_url
from penstock.bounds import Budget, Bytes, Count, Pause, Port, Span, Threads, Wait, Weight
from penstock.errors import ConfigError
from penstock.functions import POOL as FUNCTIONS
from penstock.lane import Lane
from penstock.policy.placing import PROCESS_BYTES, Machine, Needs
from penstock.policy.pools import Pool
from penstock.poolsettings import AutoscalerSettings as AutoscalerSettings
from penstock.poolsettings import PoolSettings as PoolSettings
from penstock.poolsettings import checked
from penstock.sources import Section

#: The longest path a unix socket can have on Linux is 107 bytes, on macOS 103.
_SOCKET_PATH_MAX = 100
#: Of a pool of which nothing is set. Made once: an autoscaler asks for it several times a second for each pool.
_UNSET = PoolSettings()


class LaneSettings(Section):
    """One lane's service level."""

    target: Span = Field(description="latency target, seconds from enqueue to result")


class Lanes(Section):
    """The lanes' service levels."""

    interactive: LaneSettings = LaneSettings(target=0.1)
    background: LaneSettings = LaneSettings(target=60.0)


class JobSettings(Section):
    """Limits on one job."""

    timeout_s: Span = Field(600.0, description="limit on one attempt, unless the job or its model says less")
    max_input_bytes: Bytes = Field(8 * 2**20, description="largest input, bytes of JSON")
    max_output_bytes: Bytes = Field(8 * 2**20, description="largest output, bytes of JSON")


class RunSettings(Section):
    """Runs of pipelines."""

    pin: bool = Field(True, description="a run goes on with the versions of models that are served when it begins")
    unserved_wait_s: Span | None = Field(
        3600.0, description="a step fails when nobody has served its model, or that version, for so long; empty: never"
    )

    _forever = field_validator("unserved_wait_s", mode="before")(sources.blank)


class ProgressSettings(Section):
    """Partial output of step-wise models, kept at the broker for `job.stream()`."""

    keep: Count = Field(1000, description="newest entries kept per job, about; older ones are reported as missed")
    ttl_s: Span = Field(3600.0, description="how long they are kept after the last one, seconds")
    max_bytes: Bytes = Field(16 * 1024, description="largest entry, bytes of JSON; a larger one fails its job")


class RetrySettings(Section):
    """Budgets of attempts, separate by cause; back-off is exponential with full jitter."""

    failures: Budget = Field(3, description="retries after a retryable failure of the model")
    losses: Budget = Field(5, description="retries after the loss of a worker")
    kills: Count = Field(2, description="workers that die running one job alone until it is quarantined")
    ooms: Budget = Field(3, description="retries after the device ran out of memory")
    backoff_s: Span = Field(1.0, description="first back-off, seconds; doubles each time")
    backoff_max_s: Span = Field(300.0, description="longest back-off, seconds")


class LeaseSettings(Section):
    """How long a silent worker keeps its jobs."""

    ttl_s: Wait = Field(30.0, description="a worker silent for so long is dead and its jobs are rescued")
    heartbeat_s: Wait | None = Field(None, description="seconds between heartbeats; default ttl_s / 5")

    @model_validator(mode="after")
    def _beats_in_time(self) -> LeaseSettings:
        if self.heartbeat_s is not None and self.heartbeat_s >= self.ttl_s:
            raise ValueError("heartbeat_s must be less than ttl_s: the lease would run out between two heartbeats")
        return self

    @property
    def every_s(self) -> float:
        """Seconds between heartbeats."""
        return self.heartbeat_s or self.ttl_s / 5


class RetentionSettings(Section):
    """How long finished things are kept."""

    jobs_s: Span = Field(7 * 86400.0, description="terminal jobs, with their idempotency keys, seconds")
    scaling_s: Span = Field(30 * 86400.0, description="what the autoscaler has seen and decided, seconds")
    prune_every_s: Wait = Field(300.0, description="seconds between prunings by the dispatcher")


class DispatcherSettings(Section):
    """The dispatcher's rhythm."""

    poll_s: Wait = Field(0.5, description="longest sleep between looks at what is due, seconds")
    publish_grace_s: Pause = Field(2.0, description="age at which an unpublished job is relayed, seconds")
    reconcile_every_s: Wait = Field(5.0, description="seconds between comparisons of SQL with the broker")
    batch: Annotated[int, Field(ge=1, le=100_000)] = Field(1000, description="jobs per relay transaction")


class WebhookSettings(Section):
    """Result callbacks."""

    secrets: list[SecretStr] = Field(
        default_factory=list, description="signing keys `whsec_…`, newest first; several while one rotates"
    )

    _split = field_validator("secrets", mode="before")(sources.words)

    timeout_s: Wait = Field(15.0, description="limit on one delivery, seconds")
    allow_private: bool = Field(False, description="local mode: allow http and private addresses")
    concurrency: Threads = Field(16, description="deliveries in flight")
    per_host: Threads = Field(4, description="deliveries in flight to one host")


class WorkerSettings(Section):
    """A worker process."""

    device: str | None = Field(None, description="cpu, cuda:0, …; default: the first CUDA device, else cpu")
    prefetch_batches: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = Field(
        2.0, description="batches claimed ahead per queue, at most"
    )
    lead_s: Pause = Field(0.003, description="claim so long before the device is free, seconds")
    batching: str = Field("adaptive", pattern="^(adaptive|greedy)$", description="adaptive or greedy")
    memory: str | None = Field(
        None,
        description="device memory for models (8GiB): those that do not fit are loaded when they are needed",
    )
    drain_s: Pause = Field(30.0, description="longest wait for running batches when stopping")
    lane: Lane | None = Field(
        None, description="do jobs of this lane only, as long as other workers do those of the other; default: both"
    )

    _both = field_validator("lane", mode="before")(sources.blank)


class TenantSettings(Section):
    """A tenant's share of the devices. What `penstock tenant set` has stored for a tenant wins."""

    weight: Weight = Field(1.0, description="its share, relative to the others' weights")
    cap: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="most jobs that it may have running at a time"
    )


class AdmissionSettings(Section):
    """Protection from overload: interactive jobs that could not be done in time are refused at once."""

    enabled: bool = Field(True, description="refuse interactive jobs when too many wait; false: all are accepted")


class DashboardSettings(Section):
    """Flower."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(5555, description="port to listen on")
    basic_auth: SecretStr | None = Field(None, description="user:password; needed unless bound to loopback")
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="names under which browsers reach it, besides loopback: behind a proxy, in a network; `*`: any",
    )

    _split = field_validator("allowed_hosts", mode="before")(sources.words)


#: What the names of Celery's settings about results begin with.
_RESULT_SETTINGS = re.compile(
    r"(result|database|redis|mongodb|cache|cassandra|elasticsearch|couchbase|arangodb|dynamodb|s3|gcs|azureblockblob"
    r"|cosmosdbsql)_[a-z_]+"
)


class CelerySettings(Section):
    """Canvases that run through models and through tasks of your own."""

    default_queue: str = Field(
        "celery",
        min_length=1,
        description="where workers send follow-ups whose producer gave no route: your app's default queue",
    )
    task_timeout_s: Span = Field(
        86400.0,
        description="a plain task in a run that is not heard of for so long, seconds, is lost",
    )
    task_result_url: str | None = Field(
        None, repr=False, description="`result_backend` of the app whose tasks are in runs; default: `result_url`"
    )
    task_result_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description='settings of that app about its results: `{"database_table_names": {"task": "results"}}`',
    )

    _blank = field_validator("task_result_url", mode="before")(sources.blank)

    @field_validator("task_result_options")
    @classmethod
    def _about_results(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _RESULT_SETTINGS.fullmatch(name):
                raise ValueError(f"{name!r:.80} is no setting of Celery's about results, such as result_extended")
        return value


class MetricsSettings(Section):
    """Figures of workers and dispatchers for Prometheus, at /metrics, and probes, at /healthz and /readyz."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port | None = Field(
        None, description="port to listen on, one per process; 0: any free one; default: no metrics"
    )
    stuck_after_s: Wait = Field(
        60.0,
        description="/healthz fails when a thread is at one turn for longer; servers' timeouts are up to 30 seconds",
    )


class Settings(BaseSettings):
    """Everything that can be set. Frozen; build it with ``Settings.load``."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path("~/.penstock"), description="embedded broker, SQLite file, artifacts, logs")
    namespace: str = Field("penstock", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="prefix of keys and queues")
    broker_url: str | None = Field(None, repr=False, description="redis://, rediss://, sentinel://; default: embedded")
    result_url: str | None = Field(None, repr=False, description="Celery results; default: the broker")
    database_url: str | None = Field(
        None, repr=False, description="sqlite:///…, postgresql://…; default: SQLite under home"
    )
    artifact_url: str | None = Field(None, repr=False, description="reserved for the artifact store")
    models: list[str] = Field(default_factory=list, description="modules that define models")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")
    lanes: Lanes = Lanes()
    job: JobSettings = JobSettings()
    run: RunSettings = RunSettings()
    progress: ProgressSettings = ProgressSettings()
    retry: RetrySettings = RetrySettings()
    lease: LeaseSettings = LeaseSettings()
    retention: RetentionSettings = RetentionSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    webhook: WebhookSettings = WebhookSettings()
    worker: WorkerSettings = WorkerSettings()
    admission: AdmissionSettings = AdmissionSettings()
    dashboard: DashboardSettings = DashboardSettings()
    celery: CelerySettings = CelerySettings()
    metrics: MetricsSettings = MetricsSettings()
    tenants: dict[str, TenantSettings] = Field(
        default_factory=dict,
        description='weight and cap per tenant: `{"acme": {"weight": 2, "cap": 8}}`, or weights alone: `acme=2,beta=1`',
    )
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    pools: dict[str, PoolSettings] = Field(
        default_factory=dict,
        description='pools of workers: `{"gpu": {"models": ["embed"], "max": 4}}`; others have the defaults',
    )

    _split_models = field_validator("models", mode="before")(sources.words)
    _read_tenants = field_validator("tenants", mode="before")(sources.pairs)
    _read_pools = field_validator("pools", mode="before")(sources.section)
    _check_pools = field_validator("pools")(checked)
    _blank = field_validator("broker_url", "result_url", "database_url", "artifact_url", mode="before")(sources.blank)

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return sources.absolute(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=sources.config_file())
        return init_settings, sources.Environment(settings_cls), sources.SecretFiles(settings_cls), toml

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read all sources; ``overrides`` win. Raises ``ConfigError`` naming every wrong setting."""
        overrides = {key: value for key, value in overrides.items() if value is not None}
        sources.reject_unknown(cls)
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise sources.explained(cls, error, overrides) from None
        except (ValueError, OSError) as error:  # a malformed toml file, or one that cannot be read
            raise ConfigError(
                f"settings cannot be read: {error}",
                fix=f"check {getattr(error, 'filename', None) or sources.config_file()}",
            ) from None

    def environ(self) -> dict[str, str]:
        """Variables from which a child process reads these very settings."""
        out = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, BaseModel):
                out[f"PENSTOCK_{name.upper()}"] = json.dumps(_reveal(value.model_dump()))
            elif isinstance(value, dict):
                out[f"PENSTOCK_{name.upper()}"] = json.dumps({k: _reveal(v.model_dump()) for k, v in value.items()})
            else:
                out[f"PENSTOCK_{name.upper()}"] = json.dumps(value) if isinstance(value, list) else str(value)
        return out

    # What the defaults mean -----------------------------------------------------------------------------------

    def pool(self, name: str) -> PoolSettings:
        """What is set of a pool; the defaults where nothing is."""
        return self.pools.get(name, _UNSET)

    def of_pool(self, name: str | None) -> Settings:
        """These settings as a worker of the pool reads them: what is set of the pool goes before what is set of all.

        Functions need no device: their worker neither takes one nor loads what would look for it.
        """
        if name is None:
            return self
        pool = self.pool(name)
        device = pool.device or ("cpu" if name == FUNCTIONS else None)
        worker = {"device": device, "memory": pool.device_memory}
        lanes = {
            lane.value: LaneSettings(target=pool.target_s(lane, getattr(self.lanes, lane.value).target))
            for lane in Lane
        }
        own = {name: value for name, value in worker.items() if value is not None}
        return self.model_copy(
            update={"worker": self.worker.model_copy(update=own), "lanes": self.lanes.model_copy(update=lanes)}
        )

    def needs(self, name: str, machine: Machine, *, models: int = 0) -> Needs:
        """What the workers of a pool want of a machine. ``models`` are the bytes that its models say they need."""
        pool, functions = self.pool(name), name == FUNCTIONS
        kind = self.of_pool(name).worker.device
        kind = kind.partition(":")[0] if kind else "cuda" if machine.devices else None
        return Needs(
            pool=name,
            kind=kind,
            devices=frozenset(pool.devices),
            share=pool.share,
            device_memory=pool.device_memory_bytes,
            memory=pool.memory_bytes,
            # Models that are loaded onto an accelerator pass through memory, one after the other, at most.
            weighs=PROCESS_BYTES + (models if kind in (None, "cpu") else 0),
            threads=pool.threads,
            weight=pool.weight,
            least=pool.min,
            most=pool.max,
            single=functions,
        )

    def served_pools(self) -> dict[str, Pool]:
        """The pools that are set, as ``policy.pools`` takes them."""
        return {
            name: Pool(name=name, models=frozenset(pool.models), room=pool.device_memory_bytes)
            for name, pool in self.pools.items()
        }

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the one that ``penstock up`` runs under ``home``."""
        return self.broker_url is None

    @property
    def broker_socket(self) -> Path:
        """The embedded broker's unix socket."""
        path = self.home / "run" / "broker.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}" / f"{digest}.sock"

    @property
    def broker(self) -> str:
        """The broker's URL, the embedded one included."""
        return self.broker_url or socket_url(str(self.broker_socket))

    @property
    def results(self) -> str:
        """The URL of Celery's results."""
        return self.result_url or self.broker

    @property
    def database(self) -> str:
        """The database's URL, the embedded one included."""
        return self.database_url or f"sqlite:///{quoted(str(self.home / 'penstock.db'))}"


def _reveal(value: Any) -> Any:
    """Secrets as plain text, for the environment of a child process and nowhere else."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _reveal(item) for key, item in value.items()}
    return [_reveal(item) for item in value] if isinstance(value, list) else value
