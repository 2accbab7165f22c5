"""The tables. Rows are written in bulk by the statements of the modules beside this one, not through these classes;
the classes are the one definition of the schema, which the migrations are compared with, and which other programs
may query with.

Times are Unix seconds. JSON values are stored as text: the database never looks inside. There are no foreign keys: the
children of a job are removed with it (``retention``), and a check of them would cost every insert and delete.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Double, Index, MetaData, Text, text
from sqlmodel import Field, SQLModel

from penstock.job import DEFAULT_TENANT

#: Every constraint has a name, so that a migration can drop it on both databases.
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


#: Ids are compared byte by byte, whatever language the database sorts in: quicker, and in order of creation.
Id = Text().with_variant(Text(collation="C"), "postgresql")


class Row(SQLModel):
    """Base of the tables."""

    metadata = MetaData(naming_convention=NAMING)


def _where(condition: str) -> dict[str, Any]:
    """A partial index, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _one_of(column: str, *values: str) -> str:
    # A chain of comparisons in order of frequency: for an IN list SQLite builds a table per row, which takes a third
    # of the time of an insert.
    return " OR ".join(f"{column} = '{value}'" for value in values)


class JobRow(Row, table=True):
    """A job: see ``penstock.job.Job`` for what the columns mean."""

    __tablename__ = "penstock_job"
    __table_args__ = (
        CheckConstraint(
            _one_of("state", "accepted", "queued", "running", "succeeded", "failed", "cancelled", "expired"), "state"
        ),
        # Counts and walks through one state, by time, without touching the table. A list of all states is seven such
        # walks, merged: an index by time alone would cost every change of state on Postgres one more entry.
        Index("ix_penstock_job_time", "state", "accepted_at", "id", "model", "lane"),
        # Which queues of single versions there may be.
        Index(
            "ix_penstock_job_asked",
            "model",
            "lane",
            "asked_version",
            "state",
            **_where("asked_version IS NOT NULL AND state IN ('accepted', 'queued', 'running')"),
        ),
        # What the dispatcher asks for: due, overdue, past retention, canvas not finished.
        Index("ix_penstock_job_due", "available_at", **_where("state = 'accepted'")),
        Index(
            "ix_penstock_job_deadline",
            "deadline_at",
            **_where("deadline_at IS NOT NULL AND state IN ('accepted', 'queued')"),
        ),
        Index("ix_penstock_job_settled", "settled_at", **_where("settled_at IS NOT NULL AND run_id IS NULL")),
        Index(
            "ix_penstock_job_canvas",
            "settled_at",
            **_where("canvas IS NOT NULL AND NOT canvas_done AND settled_at IS NOT NULL"),
        ),
        # The jobs of one tenant, where tenants are named: the default one's are found by walking through all.
        Index("ix_penstock_job_tenant", "tenant", "accepted_at", **_where(f"tenant <> '{DEFAULT_TENANT}'")),
        Index(
            "uq_penstock_job_key",
            "tenant",
            "idempotency_key",
            unique=True,
            **_where("idempotency_key IS NOT NULL"),
        ),
        # A step of a run, once per generation. Few indexes, since each is asked about at every insert of any job.
        Index("uq_penstock_job_step", "run_id", "path", "generation", unique=True, **_where("run_id IS NOT NULL")),
        # Runs: those that have ended before their steps, and open ones, which have `closing` NULL, by deadline.
        Index("ix_penstock_job_run", "closing", "state", "deadline_at", "model", "lane", **_where("graph IS NOT NULL")),
        Index("ix_penstock_job_graph", "graph", **_where("graph IS NOT NULL")),
    )

    # Small and often changed first, long ones last: SQLite reads a row from its beginning.
    id: str = Field(sa_type=Id, primary_key=True)
    state: str = Field(sa_type=Text)
    attempt: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    worker: str | None = Field(None, sa_type=Text)
    cancel_requested: bool = Field(False, sa_column_kwargs={"server_default": text("false")})
    canvas_done: bool = Field(False, sa_column_kwargs={"server_default": text("false")})
    deadline_at: float | None = Field(None, sa_type=Double)
    timeout_s: float | None = Field(None, sa_type=Double)
    available_at: float = Field(sa_type=Double)
    #: Who took it for publishing has until then; 0 is nobody.
    publish_lease_until: float = Field(0.0, sa_type=Double, sa_column_kwargs={"server_default": text("0")})
    failures: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    losses: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    ooms: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    model: str = Field(sa_type=Text)
    #: What made the output, or runs now; empty before that.
    version: str = Field(sa_type=Text)
    lane: str = Field(sa_type=Text)
    tenant: str = Field(sa_type=Text)
    priority: int
    reply_to: str | None = Field(None, sa_type=Text)
    webhook: str | None = Field(None, sa_type=Text)
    idempotency_key: str | None = Field(None, sa_type=Text)
    #: Of the request's body: tells a repeated request from another one under the same key.
    digest: str | None = Field(None, sa_type=Text)
    trace: str | None = Field(None, sa_type=Text)
    accepted_at: float = Field(sa_type=Double)
    queued_at: float | None = Field(None, sa_type=Double)
    claimed_at: float | None = Field(None, sa_type=Double)
    started_at: float | None = Field(None, sa_type=Double)
    settled_at: float | None = Field(None, sa_type=Double)
    batch_wait_s: float | None = Field(None, sa_type=Double)
    load_s: float | None = Field(None, sa_type=Double)
    compute_s: float | None = Field(None, sa_type=Double)
    transfer_s: float | None = Field(None, sa_type=Double)
    batch_size: int | None = None
    batch_reason: str | None = Field(None, sa_type=Text)
    tags: str | None = Field(None, sa_type=Text)
    error: str | None = Field(None, sa_type=Text)
    canvas: str | None = Field(None, sa_type=Text)
    input: str = Field(sa_type=Text)
    output: str | None = Field(None, sa_type=Text)
    suspicions: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    kills: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    #: The version that was asked for; NULL: any.
    asked_version: str | None = Field(None, sa_type=Text)
    #: Of a step: its run, which of the graph's steps it is (``embed``; ``embed[7]`` of a map), and since which
    #: generation of the run, -1 where a fork has taken it over. Of a run: the digest of its graph, and its generation.
    run_id: str | None = Field(None, sa_type=Id)
    path: str | None = Field(None, sa_type=Id)
    generation: int | None = None
    graph: str | None = Field(None, sa_type=Text)
    #: A run that has ended and may have open steps.
    closing: bool | None = None
    #: How often a step was tried again after it had failed for good.
    retries: int | None = None
    #: When a step should begin, for its run to be in time: it orders what waits, and ends nothing.
    start_by: float | None = Field(None, sa_type=Double)
    #: Of a step: what its tenant was charged for all its attempts, device seconds. Of a run with a budget: what its
    #: steps that have ended took in this generation.
    device_s: float | None = Field(None, sa_type=Double)
    #: Of a run with bounds: most of its steps in flight at a time, and device seconds that they may take (JSON).
    bounds: str | None = Field(None, sa_type=Text)


class GraphRow(Row, table=True):
    """A graph by its digest: what runs go on with, whatever is deployed meanwhile."""

    __tablename__ = "penstock_graph"

    digest: str = Field(sa_type=Text, primary_key=True)
    graph: str = Field(sa_type=Text)


class MapRow(Row, table=True):
    """A step of a run that is called for each element of a list: ``begun`` of ``size`` are jobs.

    ``pending`` counts the chunks with an element that has not succeeded; ``failed`` is the generation of the run in
    which one has failed.
    """

    __tablename__ = "penstock_map"
    __table_args__ = (Index("ix_penstock_map_begun", "run_id", **_where("begun < size")),)

    run_id: str = Field(sa_type=Id, primary_key=True)
    path: str = Field(sa_type=Id, primary_key=True)
    size: int
    begun: int
    pending: int
    failed: int | None = None
    #: When its last elements began: who is still at it is not disturbed.
    begun_at: float = Field(sa_type=Double)


class TodoRow(Row, table=True):
    """What the transaction that decided on a run has left to another one, for whoever finds it if nobody goes on:
    ``path`` is a step that nothing needs any more, empty when it is to be decided what comes next.
    """

    __tablename__ = "penstock_todo"
    __table_args__ = (Index("ix_penstock_todo_since", "since"),)

    run_id: str = Field(sa_type=Id, primary_key=True)
    path: str = Field(sa_type=Id, primary_key=True)
    since: float = Field(sa_type=Double)


class ForkRow(Row, table=True):
    """A new run that has not taken over all that it is to have of ``source``: ``copied`` of the steps that ``taken``
    names, maps with their sizes, in their order. It begins behind that.
    """

    __tablename__ = "penstock_fork"
    __table_args__ = (Index("ix_penstock_fork_source", "source"), Index("ix_penstock_fork_since", "since"))

    run_id: str = Field(sa_type=Id, primary_key=True)
    source: str = Field(sa_type=Id)
    taken: str = Field(sa_type=Text)
    copied: int
    since: float = Field(sa_type=Double)


class MapChunkRow(Row, table=True):
    """Some neighbouring elements of a map; ``pending`` of them have not succeeded. ``followed``: another map begins
    with each of them. ``watched``: its run has a bound, to which each end of an element matters."""

    __tablename__ = "penstock_map_chunk"

    run_id: str = Field(sa_type=Id, primary_key=True)
    path: str = Field(sa_type=Id, primary_key=True)
    chunk: int = Field(primary_key=True)
    pending: int
    followed: bool
    watched: bool


class MapRoomRow(Row, table=True):
    """A map of which only so many elements are in flight: ``begun`` of ``size`` are jobs, or were done before, and
    ``in_flight`` of these have not ended. Only who holds the run changes it.
    """

    __tablename__ = "penstock_map_room"

    run_id: str = Field(sa_type=Id, primary_key=True)
    path: str = Field(sa_type=Id, primary_key=True)
    size: int
    begun: int
    in_flight: int


class WaitRow(Row, table=True):
    """A step that sleeps, or waits for a signal for a limited time: when that is over."""

    __tablename__ = "penstock_wait"
    __table_args__ = (Index("ix_penstock_wait_until", "until"),)

    run_id: str = Field(sa_type=Id, primary_key=True)
    path: str = Field(sa_type=Id, primary_key=True)
    generation: int = Field(primary_key=True)
    job_id: str = Field(sa_type=Id)
    until: float = Field(sa_type=Double)


class TaskRow(Row, table=True):
    """A plain Celery task in a run that was sent: until when somebody must have heard of it."""

    __tablename__ = "penstock_task"
    __table_args__ = (Index("ix_penstock_task_until", "until", "job_id"),)

    job_id: str = Field(sa_type=Id, primary_key=True)
    until: float = Field(sa_type=Double)


class SignalRow(Row, table=True):
    """What somebody told a run, until a step has waited for it; ``taken_by`` is that step's path."""

    __tablename__ = "penstock_signal"

    run_id: str = Field(sa_type=Id, primary_key=True)
    name: str = Field(sa_type=Id, primary_key=True)
    id: str = Field(sa_type=Id, primary_key=True)
    value: str = Field(sa_type=Text)
    sent_at: float = Field(sa_type=Double)
    taken_by: str | None = Field(None, sa_type=Text)


class JobTagRow(Row, table=True):
    """One tag of a job, for finding jobs by it. What a job's tags are is read from the job itself."""

    __tablename__ = "penstock_job_tag"
    __table_args__ = (Index("ix_penstock_job_tag_job", "job_id"),)

    name: str = Field(sa_type=Text, primary_key=True)
    value: str = Field(sa_type=Text, primary_key=True)
    job_id: str = Field(sa_type=Id, primary_key=True)


class WorkerRow(Row, table=True):
    """A worker process that is alive, or was until its lease ran out and nobody has noticed yet."""

    __tablename__ = "penstock_worker"

    instance: str = Field(sa_type=Text, primary_key=True)
    name: str = Field(sa_type=Text)
    pool: str = Field(sa_type=Text)
    started_at: float = Field(sa_type=Double)
    seen_at: float = Field(sa_type=Double)
    lease_until: float = Field(sa_type=Double)
    info: str = Field(sa_type=Text)
    #: By model the version that it serves, empty where it declares none: what runs are put on when they begin.
    versions: str | None = Field(None, sa_type=Text)
    #: The lane that it keeps to; empty: none, since it is parked; ``None``: it does both.
    lane: str | None = Field(None, sa_type=Text)


class ModelRow(Row, table=True):
    """What workers last announced of a model. Kept when they are gone: its jobs are accepted and wait for new ones."""

    __tablename__ = "penstock_model"

    name: str = Field(sa_type=Text, primary_key=True)
    info: str = Field(sa_type=Text)
    seen_at: float = Field(sa_type=Double)


class PipelineRow(Row, table=True):
    """What workers last announced of a pipeline: its graph, with which runs by this name begin, and its inputs."""

    __tablename__ = "penstock_pipeline"

    name: str = Field(sa_type=Text, primary_key=True)
    graph: str = Field(sa_type=Text)
    info: str = Field(sa_type=Text)
    seen_at: float = Field(sa_type=Double)


class LatencyRow(Row, table=True):
    """What workers have learned of how long a model's batches take on one kind of device."""

    __tablename__ = "penstock_latency"

    model: str = Field(sa_type=Text, primary_key=True)
    version: str = Field(sa_type=Text, primary_key=True)
    device: str = Field(sa_type=Text, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    state: str = Field(sa_type=Text)
    updated_at: float = Field(sa_type=Double)


class LeaderRow(Row, table=True):
    """Who leads: there is one of a name, and each one after another has a higher ``epoch``."""

    __tablename__ = "penstock_leader"

    name: str = Field(sa_type=Text, primary_key=True)
    #: A process, by a name of its own; empty: it has resigned.
    holder: str = Field(sa_type=Text)
    epoch: int
    #: Counts up while the holder lives. No time: others wait for it to change, by their own clocks.
    beat: int
    #: What the next one needs to know to go on (JSON).
    state: str | None = Field(None, sa_type=Text)


class SlotRow(Row, table=True):
    """A worker that is wanted: without such a row, one that was started for it ends before it consumes."""

    __tablename__ = "penstock_slot"
    __table_args__ = (CheckConstraint(_one_of("state", "wanted", "parked", "draining"), "state"),)

    id: str = Field(sa_type=Id, primary_key=True)
    pool: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    #: Of the leader that has changed it last.
    epoch: int
    made_at: float = Field(sa_type=Double)
    #: When it came to its state.
    changed_at: float = Field(sa_type=Double)
    #: The instance that has it, and since when that one is ready.
    worker: str | None = Field(None, sa_type=Text)
    ready_at: float | None = Field(None, sa_type=Double)
    #: Which start of a process may have it.
    fence: str | None = Field(None, sa_type=Text)
    #: What a backend has noted of that process (JSON).
    place: str | None = Field(None, sa_type=Text)
    #: What its worker is to be, beyond what the settings say of its pool (JSON).
    spec: str | None = Field(None, sa_type=Text)
    reason: str = Field(sa_type=Text)


class RolloutRow(Row, table=True):
    """What the workers of a pool are to be. Without such a row, they are what their settings say."""

    __tablename__ = "penstock_rollout"

    pool: str = Field(sa_type=Text, primary_key=True)
    #: A name, which is also in ``spec``: what the slots of this revision are given (JSON).
    revision: str = Field(sa_type=Text)
    spec: str = Field(sa_type=Text)
    #: The same of the one before it.
    previous: str = Field(sa_type=Text)
    previous_spec: str = Field(sa_type=Text)
    #: Of the workers, those that are to be of ``revision``.
    share: float = Field(sa_type=Double)
    #: Workers beyond those that the load wants, while it lasts.
    surge: int
    paused: bool
    begun_at: float = Field(sa_type=Double)
    changed_at: float = Field(sa_type=Double)
    #: Since when it is known that workers of ``revision`` come up; NULL: none was ready yet.
    proven_at: float | None = Field(default=None, sa_type=Double)


class ScalingRow(Row, table=True):
    """A pool in one minute, as one leader has seen it: see ``store.elastic.records.Minute``."""

    __tablename__ = "penstock_scaling"
    __table_args__ = (Index("ix_penstock_scaling_at", "at"),)

    pool: str = Field(sa_type=Text, primary_key=True)
    at: float = Field(sa_type=Double, primary_key=True)
    epoch: int = Field(primary_key=True)
    seconds: float = Field(sa_type=Double)
    demand_s: float = Field(sa_type=Double)
    demand_most: float = Field(sa_type=Double)
    backlog_s: float = Field(sa_type=Double)
    backlog_most: float = Field(sa_type=Double)
    wanted_s: float = Field(sa_type=Double)
    ready_s: float = Field(sa_type=Double)
    busy_s: float = Field(sa_type=Double)
    starting_s: float = Field(sa_type=Double)
    parked_s: float = Field(sa_type=Double)
    draining_s: float = Field(sa_type=Double)
    ready_in_s: float | None = Field(None, sa_type=Double)
    wake_in_s: float | None = Field(None, sa_type=Double)


class ScalingChangeRow(Row, table=True):
    """A decision that changed what a pool is to have, and why."""

    __tablename__ = "penstock_scaling_change"
    __table_args__ = (
        Index("ix_penstock_scaling_change_pool", "pool", "id"),
        Index("ix_penstock_scaling_change_at", "at"),
    )

    id: str = Field(sa_type=Id, primary_key=True)
    pool: str = Field(sa_type=Text)
    at: float = Field(sa_type=Double)
    epoch: int
    before: int
    after: int
    parked: int
    code: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)


class TenantRow(Row, table=True):
    """What was set for a tenant by hand; it wins over the settings."""

    __tablename__ = "penstock_tenant"
    __table_args__ = (CheckConstraint("weight > 0", "weight"), CheckConstraint("cap > 0", "cap"))

    name: str = Field(sa_type=Text, primary_key=True)
    weight: float = Field(sa_type=Double)
    cap: int | None = None
    updated_at: float = Field(sa_type=Double)


class MetaRow(Row, table=True):
    """What is known of the database itself: its identity."""

    __tablename__ = "penstock_meta"

    name: str = Field(sa_type=Text, primary_key=True)
    value: str = Field(sa_type=Text)


class DeliveryRow(Row, table=True):
    """A webhook event and how its delivery goes."""

    __tablename__ = "penstock_delivery"
    __table_args__ = (
        CheckConstraint(_one_of("state", "pending", "delivered", "dead", "gone"), "state"),
        Index("ix_penstock_delivery_due", "next_at", **_where("state = 'pending'")),
        Index("ix_penstock_delivery_gone", "url", **_where("state = 'gone'")),
        Index("ix_penstock_delivery_job", "job_id"),
        Index("ix_penstock_delivery_created", "created_at"),
    )

    id: str = Field(sa_type=Id, primary_key=True)
    job_id: str = Field(sa_type=Id)
    url: str = Field(sa_type=Text)
    #: Of the URL: deliveries are taken fairly between hosts.
    host: str = Field(sa_type=Text)
    type: str = Field(sa_type=Text)
    payload: str = Field(sa_type=Text)
    state: str = Field("pending", sa_type=Text)
    attempts: int = Field(0, sa_column_kwargs={"server_default": text("0")})
    created_at: float = Field(sa_type=Double)
    next_at: float = Field(sa_type=Double)
    lease_until: float = Field(0.0, sa_type=Double, sa_column_kwargs={"server_default": text("0")})
    attempted_at: float | None = Field(None, sa_type=Double)
    status_code: int | None = None
    error: str | None = Field(None, sa_type=Text)
