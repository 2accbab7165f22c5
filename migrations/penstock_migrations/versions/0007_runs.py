"""Runs of pipelines: steps, graphs, counters of maps, signals, and the pipelines that workers announce."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: Name, columns, whether it is unique, and which rows it has.
INDEXES = (
    ("uq_penstock_job_step", ["run_id", "path", "generation"], True, "run_id IS NOT NULL"),
    ("ix_penstock_job_run", ["closing", "state", "deadline_at", "model", "lane"], False, "graph IS NOT NULL"),
    ("ix_penstock_job_graph", ["graph"], False, "graph IS NOT NULL"),
    # Steps go with their runs.
    ("ix_penstock_job_settled", ["settled_at"], False, "settled_at IS NOT NULL AND run_id IS NULL"),
)


def upgrade() -> None:
    id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("penstock_job", sa.Column("run_id", id, nullable=True))
    op.add_column("penstock_job", sa.Column("path", id, nullable=True))
    op.add_column("penstock_job", sa.Column("generation", sa.Integer(), nullable=True))
    op.add_column("penstock_job", sa.Column("graph", sa.Text(), nullable=True))
    op.add_column("penstock_job", sa.Column("closing", sa.Boolean(), nullable=True))
    op.add_column("penstock_job", sa.Column("retries", sa.Integer(), nullable=True))
    op.add_column("penstock_job", sa.Column("start_by", sa.Double(), nullable=True))
    op.add_column("penstock_worker", sa.Column("versions", sa.Text(), nullable=True))
    op.add_column("penstock_job", sa.Column("device_s", sa.Double(), nullable=True))
    op.add_column("penstock_job", sa.Column("bounds", sa.Text(), nullable=True))
    op.drop_index("ix_penstock_job_settled", table_name="penstock_job")
    for name, columns, unique, where in INDEXES:
        only = sa.text(where)
        op.create_index(name, "penstock_job", columns, unique=unique, sqlite_where=only, postgresql_where=only)
    op.create_table(
        "penstock_graph",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("graph", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_penstock_graph")),
    )
    op.create_table(
        "penstock_map",
        sa.Column("run_id", id, nullable=False),
        sa.Column("path", id, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("begun", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("begun_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_penstock_map")),
    )
    op.create_index(
        "ix_penstock_map_begun",
        "penstock_map",
        ["run_id"],
        unique=False,
        sqlite_where=sa.text("begun < size"),
        postgresql_where=sa.text("begun < size"),
    )
    op.create_table(
        "penstock_map_chunk",
        sa.Column("run_id", id, nullable=False),
        sa.Column("path", id, nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("followed", sa.Boolean(), nullable=False),
        sa.Column("watched", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", "chunk", name=op.f("pk_penstock_map_chunk")),
    )
    op.create_table(
        "penstock_wait",
        sa.Column("run_id", id, nullable=False),
        sa.Column("path", id, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("job_id", id, nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", "generation", name=op.f("pk_penstock_wait")),
    )
    op.create_index("ix_penstock_wait_until", "penstock_wait", ["until"], unique=False)
    op.create_table(
        "penstock_task",
        sa.Column("job_id", id, nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_penstock_task")),
    )
    op.create_index("ix_penstock_task_until", "penstock_task", ["until", "job_id"], unique=False)
    op.create_table(
        "penstock_map_room",
        sa.Column("run_id", id, nullable=False),
        sa.Column("path", id, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("begun", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_penstock_map_room")),
    )
    op.create_table(
        "penstock_signal",
        sa.Column("run_id", id, nullable=False),
        sa.Column("name", id, nullable=False),
        sa.Column("id", id, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "name", "id", name=op.f("pk_penstock_signal")),
    )
    op.create_table(
        "penstock_todo",
        sa.Column("run_id", id, nullable=False),
        sa.Column("path", id, nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_penstock_todo")),
    )
    op.create_index("ix_penstock_todo_since", "penstock_todo", ["since"])
    op.create_table(
        "penstock_fork",
        sa.Column("run_id", id, nullable=False),
        sa.Column("source", id, nullable=False),
        sa.Column("taken", sa.Text(), nullable=False),
        sa.Column("copied", sa.Integer(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_penstock_fork")),
    )
    op.create_index("ix_penstock_fork_source", "penstock_fork", ["source"])
    op.create_index("ix_penstock_fork_since", "penstock_fork", ["since"])
    op.create_table(
        "penstock_pipeline",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("graph", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_penstock_pipeline")),
    )


def downgrade() -> None:
    op.drop_table("penstock_pipeline")
    op.drop_table("penstock_fork")
    op.drop_table("penstock_todo")
    op.drop_table("penstock_signal")
    op.drop_table("penstock_task")
    op.drop_table("penstock_wait")
    op.drop_table("penstock_map_room")
    op.drop_table("penstock_map_chunk")
    op.drop_table("penstock_map")
    op.drop_table("penstock_graph")
    for name, *_ in reversed(INDEXES):
        op.drop_index(name, table_name="penstock_job")
    settled = sa.text("settled_at IS NOT NULL")
    op.create_index(
        "ix_penstock_job_settled", "penstock_job", ["settled_at"], sqlite_where=settled, postgresql_where=settled
    )
    op.drop_column("penstock_worker", "versions")
    for column in (
        "start_by",
        "bounds",
        "device_s",
        "retries",
        "closing",
        "graph",
        "generation",
        "path",
        "run_id",
    ):
        op.drop_column("penstock_job", column)
