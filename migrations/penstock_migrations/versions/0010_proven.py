"""Rollouts: whether workers of a revision were ever ready."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("penstock_rollout", sa.Column("proven_at", sa.Double(), nullable=True))
    # What was begun under the older rule went on by it.
    op.execute("UPDATE penstock_rollout SET proven_at = changed_at")


def downgrade() -> None:
    op.drop_column("penstock_rollout", "proven_at")
