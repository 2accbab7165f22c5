"""The first schema: jobs, their tags, workers, models, webhook deliveries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def one_of(column: str, *values: str) -> str:
    """A column with few values."""
    return " OR ".join(f"{column} = '{value}'" for value in values)


def where(condition: str) -> dict[str, Any]:
    """A partial index, on both databases."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "penstock_delivery",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempted_at", sa.Double(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            one_of("state", "pending", "delivered", "dead", "gone"),
            name=op.f("ck_penstock_delivery_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_penstock_delivery")),
    )
    op.create_index("ix_penstock_delivery_created", "penstock_delivery", ["created_at"], unique=False)
    op.create_index(
        "ix_penstock_delivery_due", "penstock_delivery", ["next_at"], unique=False, **where("state = 'pending'")
    )
    op.create_index("ix_penstock_delivery_gone", "penstock_delivery", ["url"], unique=False, **where("state = 'gone'"))
    op.create_index("ix_penstock_delivery_job", "penstock_delivery", ["job_id"], unique=False)
    op.create_table(
        "penstock_job",
        sa.Column("id", ID, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("canvas_done", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("timeout_s", sa.Double(), nullable=True),
        sa.Column("available_at", sa.Double(), nullable=False),
        sa.Column("publish_lease_until", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("losses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("ooms", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("reply_to", sa.Text(), nullable=True),
        sa.Column("webhook", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("trace", sa.Text(), nullable=True),
        sa.Column("accepted_at", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=True),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("settled_at", sa.Double(), nullable=True),
        sa.Column("batch_wait_s", sa.Double(), nullable=True),
        sa.Column("load_s", sa.Double(), nullable=True),
        sa.Column("compute_s", sa.Double(), nullable=True),
        sa.Column("transfer_s", sa.Double(), nullable=True),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("batch_reason", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("canvas", sa.Text(), nullable=True),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.CheckConstraint(
            one_of("state", "accepted", "queued", "running", "succeeded", "failed", "cancelled", "expired"),
            name=op.f("ck_penstock_job_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_penstock_job")),
    )
    op.create_index(
        "ix_penstock_job_canvas",
        "penstock_job",
        ["settled_at"],
        unique=False,
        **where("canvas IS NOT NULL AND NOT canvas_done AND settled_at IS NOT NULL"),
    )
    op.create_index(
        "ix_penstock_job_deadline",
        "penstock_job",
        ["deadline_at"],
        unique=False,
        **where("deadline_at IS NOT NULL AND state IN ('accepted', 'queued')"),
    )
    op.create_index(
        "ix_penstock_job_due", "penstock_job", ["available_at"], unique=False, **where("state = 'accepted'")
    )
    op.create_index(
        "ix_penstock_job_settled", "penstock_job", ["settled_at"], unique=False, **where("settled_at IS NOT NULL")
    )
    op.create_index("ix_penstock_job_state", "penstock_job", ["state", "id", "model", "lane"], unique=False)
    op.create_index(
        "uq_penstock_job_key",
        "penstock_job",
        ["tenant", "idempotency_key"],
        unique=True,
        **where("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "penstock_job_tag",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("name", "value", "job_id", name=op.f("pk_penstock_job_tag")),
    )
    op.create_index("ix_penstock_job_tag_job", "penstock_job_tag", ["job_id"], unique=False)
    op.create_table(
        "penstock_worker",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_penstock_worker")),
    )
    op.create_table(
        "penstock_model",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_penstock_model")),
    )


def downgrade() -> None:
    for table in ("penstock_model", "penstock_worker", "penstock_job_tag", "penstock_job", "penstock_delivery"):
        op.drop_table(table)
