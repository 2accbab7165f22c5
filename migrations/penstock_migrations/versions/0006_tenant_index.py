"""The jobs of one named tenant are found by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("tenant <> 'default'")
    op.create_index(
        "ix_penstock_job_tenant",
        "penstock_job",
        ["tenant", "accepted_at"],
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    op.drop_index("ix_penstock_job_tenant", "penstock_job")
