"""Weights and caps of tenants that are set while the system runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_tenant",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("cap", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.CheckConstraint("weight > 0", name=op.f("ck_penstock_tenant_weight")),
        sa.CheckConstraint("cap > 0", name=op.f("ck_penstock_tenant_cap")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_penstock_tenant")),
    )


def downgrade() -> None:
    op.drop_table("penstock_tenant")
