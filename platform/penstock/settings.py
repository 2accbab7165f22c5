"""Settings: read once, at the entry point, and passed in.

Order: keyword arguments (the CLI's flags) > ``PENSTOCK_*`` variables (``__`` nests) > the secrets directory
(``PENSTOCK_SECRETS_DIR``) > ``penstock.toml`` in the working directory (or ``PENSTOCK_CONFIG``). A misspelt name is
an error wherever it stands. With nothing set, broker, database and files live under ``home``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from penstock.errors import ConfigError

#: The longest path a unix socket can have on Linux is 107 bytes, on macOS 103.
_SOCKET_PATH_MAX = 100


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LaneSettings(_Section):
    """One lane's service level."""

    target: float = Field(gt=0, description="latency target, seconds from enqueue to result")


class Lanes(_Section):
    """The lanes' service levels."""

    interactive: LaneSettings = LaneSettings(target=0.1)
    background: LaneSettings = LaneSettings(target=60.0)


class JobSettings(_Section):
    """Limits on one job."""

    timeout_s: float = Field(600.0, gt=0, description="limit on one attempt, unless the job or its model says less")
    max_input_bytes: int = Field(8 * 2**20, gt=0, description="largest input, bytes of JSON")
    max_output_bytes: int = Field(8 * 2**20, gt=0, description="largest output, bytes of JSON")


class ProgressSettings(_Section):
    """Partial output of step-wise models, kept at the broker for `job.stream()`."""

    keep: int = Field(1000, gt=0, description="newest entries kept per job, about; older ones are reported as missed")
    ttl_s: float = Field(3600.0, gt=0, description="how long they are kept after the last one, seconds")
    max_bytes: int = Field(16 * 1024, gt=0, description="largest entry, bytes of JSON; a larger one fails its job")


class RetrySettings(_Section):
    """Budgets of attempts, separate by cause; back-off is exponential with full jitter."""

    failures: int = Field(3, ge=0, description="retries after a retryable failure of the model")
    losses: int = Field(5, ge=0, description="retries after the loss of a worker")
    kills: int = Field(2, ge=1, description="workers that die running one job alone until it is quarantined")
    ooms: int = Field(3, ge=0, description="retries after the device ran out of memory")
    backoff_s: float = Field(1.0, gt=0, description="first back-off, seconds; doubles each time")
    backoff_max_s: float = Field(300.0, gt=0, description="longest back-off, seconds")


class LeaseSettings(_Section):
    """How long a silent worker keeps its jobs."""

    ttl_s: float = Field(30.0, gt=0, description="a worker silent for so long is dead and its jobs are rescued")
    heartbeat_s: float | None = Field(None, gt=0, description="seconds between heartbeats; default ttl_s / 5")

    @property
    def every_s(self) -> float:
        """Seconds between heartbeats."""
        return self.heartbeat_s or self.ttl_s / 5


class RetentionSettings(_Section):
    """How long finished things are kept."""

    jobs_s: float = Field(7 * 86400.0, gt=0, description="terminal jobs, with their idempotency keys, seconds")
    prune_every_s: float = Field(300.0, gt=0, description="seconds between prunings by the dispatcher")


class DispatcherSettings(_Section):
    """The dispatcher's rhythm."""

    poll_s: float = Field(0.5, gt=0, description="longest sleep between looks at what is due, seconds")
    publish_grace_s: float = Field(2.0, ge=0, description="age at which an unpublished job is relayed, seconds")
    reconcile_every_s: float = Field(5.0, gt=0, description="seconds between comparisons of SQL with the broker")
    batch: int = Field(1000, gt=0, description="jobs per relay transaction")


class WebhookSettings(_Section):
    """Result callbacks."""

    secrets: list[SecretStr] = Field(
        default_factory=list, description="signing keys `whsec_…`, newest first; several while one rotates"
    )
    timeout_s: float = Field(15.0, gt=0, description="limit on one delivery, seconds")
    allow_private: bool = Field(False, description="local mode: allow http and private addresses")
    concurrency: int = Field(16, gt=0, description="deliveries in flight")
    per_host: int = Field(4, gt=0, description="deliveries in flight to one host")


class WorkerSettings(_Section):
    """A worker process."""

    device: str | None = Field(None, description="cpu, cuda:0, …; default: the first CUDA device, else cpu")
    prefetch_batches: float = Field(2.0, ge=1, description="batches claimed ahead per queue, at most")
    lead_s: float = Field(0.003, gt=0, description="claim so long before the device is free, seconds")
    batching: str = Field("adaptive", pattern="^(adaptive|greedy)$", description="adaptive or greedy")
    memory: str | None = Field(
        None,
        description="device memory for models (8GiB): those that do not fit are loaded when they are needed",
    )
    drain_s: float = Field(30.0, gt=0, description="longest wait for running batches when stopping")


class TenantSettings(_Section):
    """A tenant's share of the devices. What `penstock tenant set` has stored for a tenant wins."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="its share, relative to the others' weights")
    cap: int | None = Field(None, ge=1, description="most jobs that it may have running at a time")


class AdmissionSettings(_Section):
    """Protection from overload: interactive jobs that could not be done in time are refused at once."""

    enabled: bool = Field(True, description="refuse interactive jobs when too many wait; false: all are accepted")


class DashboardSettings(_Section):
    """Flower."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(5555, ge=0, le=65535, description="port to listen on")
    basic_auth: SecretStr | None = Field(None, description="user:password; needed unless bound to loopback")


class CelerySettings(_Section):
    """Canvases that run through models and through tasks of your own."""

    default_queue: str = Field(
        "celery",
        min_length=1,
        description="where workers send follow-ups whose producer gave no route: your app's default queue",
    )


class MetricsSettings(_Section):
    """Figures of workers and dispatchers for Prometheus, at /metrics."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int | None = Field(
        None, ge=0, le=65535, description="port to listen on, one per process; 0: any free one; default: no metrics"
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
    broker_url: str | None = Field(None, description="redis://, rediss://, sentinel://; default: embedded")
    result_url: str | None = Field(None, description="Celery results; default: the broker")
    database_url: str | None = Field(None, description="sqlite:///…, postgresql://…; default: SQLite under home")
    artifact_url: str | None = Field(None, description="reserved for the artifact store")
    models: Annotated[list[str], NoDecode] = Field(default_factory=list, description="modules that define models")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")
    lanes: Lanes = Lanes()
    job: JobSettings = JobSettings()
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
        default_factory=dict, description='weight and cap per tenant: `{"acme": {"weight": 2, "cap": 8}}`'
    )

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_config_file())
        return init_settings, env_settings, file_secret_settings, toml

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read all sources; ``overrides`` win. Raises ``ConfigError`` naming every wrong setting."""
        overrides = {key: value for key, value in overrides.items() if value is not None}
        _reject_unknown_variables(cls)
        secrets = os.environ.get("PENSTOCK_SECRETS_DIR")
        if secrets and not Path(secrets).is_dir():
            raise ConfigError(f"PENSTOCK_SECRETS_DIR is {secrets}, which is no folder", fix="correct or unset it")
        try:
            return cls(_secrets_dir=secrets, **overrides) if secrets else cls(**overrides)
        except ValidationError as error:
            faults = [_fault(cls, tuple(map(str, e["loc"])), e["type"], e["msg"]) for e in error.errors()]
            places = {_place(tuple(map(str, e["loc"])), overrides) for e in error.errors()}
            raise ConfigError(
                f"wrong settings: {'; '.join(faults)}", fix=f"correct {', '.join(sorted(places))}"
            ) from None
        except ValueError as error:  # a malformed toml file or environment variable
            raise ConfigError(f"settings cannot be read: {error}", fix=f"check {_config_file()}") from None

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
                out[f"PENSTOCK_{name.upper()}"] = ",".join(value) if isinstance(value, list) else str(value)
        return out

    # What the defaults mean -----------------------------------------------------------------------------------

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
        return self.broker_url or f"redis+socket://{self.broker_socket}"

    @property
    def results(self) -> str:
        """The URL of Celery's results."""
        return self.result_url or self.broker

    @property
    def database(self) -> str:
        """The database's URL, the embedded one included."""
        return self.database_url or f"sqlite:///{self.home / 'penstock.db'}"


def _reveal(value: Any) -> Any:
    """Secrets as plain text, for the environment of a child process and nowhere else."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _reveal(item) for key, item in value.items()}
    return [_reveal(item) for item in value] if isinstance(value, list) else value


def _fault(cls: type[BaseModel], loc: tuple[str, ...], kind: str, message: str) -> str:
    """What is wrong with one setting; for a name that there is not, the nearest one."""
    name = ".".join(loc)
    if kind != "extra_forbidden":
        return f"{name}: {message}"
    section: type[BaseModel] = cls
    for part in loc[:-1]:
        inner = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return f"there is no setting {name}"
        section = inner
    near = get_close_matches(loc[-1], section.model_fields, n=1)
    return f"there is no setting {name}" + (f", did you mean {'.'.join((*loc[:-1], near[0]))}?" if near else "")


def _place(loc: tuple[str, ...], overrides: Mapping[str, Any]) -> str:
    """Where a setting was written: what a person opens to correct it."""
    passed: Any = overrides
    for part in loc:
        passed = passed.get(part) if isinstance(passed, Mapping) else passed
    if passed is not None:
        return f"{'.'.join(loc)} as it was passed (a flag, --set, or a keyword argument)"
    # A variable holds one value, or a whole section as JSON.
    names = {"PENSTOCK_" + "__".join(loc[:depth]).upper() for depth in range(1, len(loc) + 1)}
    for variable in os.environ:
        if variable.upper() in names:
            return f"the variable {variable}"
    folder = os.environ.get("PENSTOCK_SECRETS_DIR")
    for file in Path(folder).iterdir() if folder else ():
        if file.name.upper() in names:
            return f"the file {file}"
    return f"the file {_config_file()}"


def _config_file() -> Path:
    return Path(os.environ.get("PENSTOCK_CONFIG", "penstock.toml"))


#: Variables that steer the reading itself.
_META = {"PENSTOCK_CONFIG", "PENSTOCK_SECRETS_DIR"}


def _reject_unknown_variables(cls: type[Settings]) -> None:
    # pydantic-settings ignores unknown variables outside a .env file; a typo must not pass silently.
    known = {name.upper() for name in cls.model_fields}
    for variable in os.environ:
        if not variable.startswith("PENSTOCK_") or variable in _META:
            continue
        head = variable.removeprefix("PENSTOCK_").split("__", 1)[0].upper()
        if head not in known:
            near = get_close_matches(head, sorted(known), n=1)
            hint = f"did you mean PENSTOCK_{near[0]}?" if near else f"unset {variable}: penstock has no such setting"
            raise ConfigError(f"unknown setting {variable}", fix=hint)
