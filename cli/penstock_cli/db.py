"""``penstock db``: the schema."""

from __future__ import annotations

from penstock.errors import SchemaOutdated
from penstock.urltext import safe_url
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.errors import UNREACHABLE
from penstock_cli.up import schema


@group()
def db() -> None:
    """The database schema."""


@db.command("upgrade")
@pass_app
def upgrade(app: App) -> None:
    """Create the tables, or bring them up to date. Safe to run again, and from several places at once."""
    import penstock_migrations

    _reachable(app)
    before = penstock_migrations.current(app.settings.database) if _exists(app) else None
    schema.upgrade(app.settings)
    after = penstock_migrations.current(app.settings.database)
    if app.out.json:
        app.out.data({"database": safe_url(app.settings.database), "before": before, "now": after})
    else:
        app.out.line(str(after))
        app.out.say("was up to date" if before == after else f"brought up to date: {safe_url(app.settings.database)}")


@db.command("current")
@pass_app
def current(app: App) -> int | None:
    """Print the schema's version. Exit 3 if it is not the one that this penstock needs."""
    import penstock_migrations

    _reachable(app)
    found = penstock_migrations.current(app.settings.database) if _exists(app) else None
    head = penstock_migrations.head()
    if app.out.json:
        app.out.data({"database": safe_url(app.settings.database), "current": found, "head": head})
    else:
        app.out.line(str(found or "none"))
    if found == head:
        app.out.say("up to date")
        return None
    app.out.warn(f"this penstock needs {head}: `penstock db upgrade`")
    return UNREACHABLE


def _reachable(app: App) -> None:
    """Raise ``StoreUnavailable`` within a second when nobody answers; a missing schema is what we are here for."""
    try:
        app.store.check()
    except SchemaOutdated:
        return


def _exists(app: App) -> bool:
    # Looking at a SQLite file that is not there would create it.
    return app.settings.database_url is not None or (app.settings.home / "penstock.db").exists()
