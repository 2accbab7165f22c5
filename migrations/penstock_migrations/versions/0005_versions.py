"""The version that a job asks for, jobs of a state by time, and who this database is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ASKED = "asked_version IS NOT NULL AND state IN ('accepted', 'queued', 'running')"


def upgrade() -> None:
    op.add_column("penstock_job", sa.Column("asked_version", sa.Text(), nullable=True))
    op.create_index(
        "ix_penstock_job_asked",
        "penstock_job",
        ["model", "lane", "asked_version", "state"],
        unique=False,
        sqlite_where=sa.text(ASKED),
        postgresql_where=sa.text(ASKED),
    )
    op.create_index(
        "ix_penstock_job_time", "penstock_job", ["state", "accepted_at", "id", "model", "lane"], unique=False
    )
    op.drop_index("ix_penstock_job_state", table_name="penstock_job")
    op.create_table(
        "penstock_meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_penstock_meta")),
    )


def downgrade() -> None:
    op.drop_table("penstock_meta")
    op.create_index("ix_penstock_job_state", "penstock_job", ["state", "id", "model", "lane"], unique=False)
    op.drop_index("ix_penstock_job_time", table_name="penstock_job")
    op.drop_index("ix_penstock_job_asked", table_name="penstock_job")
    op.drop_column("penstock_job", "asked_version")
