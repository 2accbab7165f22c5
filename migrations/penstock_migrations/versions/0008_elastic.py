"""Elasticity: who leads, the slots of workers, and what the autoscaler has seen and decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: What is added up over a minute, and what is the most of it.
SUMS = (
    "seconds",
    "demand_s",
    "demand_most",
    "backlog_s",
    "backlog_most",
    "wanted_s",
    "ready_s",
    "busy_s",
    "starting_s",
    "parked_s",
    "draining_s",
)


def upgrade() -> None:
    id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "penstock_leader",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("beat", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_penstock_leader")),
    )
    op.create_table(
        "penstock_slot",
        sa.Column("id", id, nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("fence", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("spec", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state = 'wanted' OR state = 'parked' OR state = 'draining'", name=op.f("ck_penstock_slot_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_penstock_slot")),
    )
    op.create_table(
        "penstock_scaling",
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in SUMS),
        sa.Column("ready_in_s", sa.Double(), nullable=True),
        sa.Column("wake_in_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("pool", "at", "epoch", name=op.f("pk_penstock_scaling")),
    )
    op.create_index("ix_penstock_scaling_at", "penstock_scaling", ["at"], unique=False)
    op.create_table(
        "penstock_scaling_change",
        sa.Column("id", id, nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("parked", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_penstock_scaling_change")),
    )
    op.create_index("ix_penstock_scaling_change_pool", "penstock_scaling_change", ["pool", "id"], unique=False)
    op.create_index("ix_penstock_scaling_change_at", "penstock_scaling_change", ["at"], unique=False)
    # Workers of the release before do both lanes, and leave it empty.
    op.add_column("penstock_worker", sa.Column("lane", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("penstock_worker", "lane")
    op.drop_table("penstock_scaling_change")
    op.drop_table("penstock_scaling")
    op.drop_table("penstock_slot")
    op.drop_table("penstock_leader")
