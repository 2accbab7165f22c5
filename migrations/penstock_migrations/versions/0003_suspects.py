"""Evidence against jobs whose workers died or got stuck: who has to run alone, and who killed how many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("suspicions", "kills"):
        op.add_column("penstock_job", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for name in ("kills", "suspicions"):
        op.drop_column("penstock_job", name)
