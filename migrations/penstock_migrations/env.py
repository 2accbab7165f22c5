"""What Alembic runs for every command: migrates over the connection that ``penstock_migrations`` hands in."""

from __future__ import annotations

from alembic import context

from penstock.store.engine import VERSION_TABLE
from penstock.store.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    version_table=VERSION_TABLE,
    # SQLite cannot change a column in place: the table is copied.
    render_as_batch=True,
    # The caller's transaction is the one.
    transaction_per_migration=False,
)
context.run_migrations()
