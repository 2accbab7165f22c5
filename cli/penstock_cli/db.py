"""``penstock db``: the schema."""

from __future__ import annotations

import sys

import click

from penstock.errors import NamespaceTaken, SchemaOutdated
from penstock.transport.url import connect
from penstock.urltext import safe_url
from penstock_cli import preflight
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
    before = penstock_migrations.current(app.settings.database)
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
    found = penstock_migrations.current(app.settings.database)
    head = penstock_migrations.head()
    if app.out.json:
        app.out.data({"database": safe_url(app.settings.database), "current": found, "head": head})
    else:
        app.out.line(str(found or "none"))
    try:
        penstock_migrations.verify(app.settings.database)
    except SchemaOutdated as error:
        app.out.warn(f"{error.message}: {error.fix}")
        return UNREACHABLE
    app.out.say("up to date")
    return None


@db.command("take-over")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_app
def take_over(app: App, yes: bool) -> None:
    """Make the broker's namespace this database's.

    For when the one that it belongs to is gone for good.

    A namespace belongs to one database: two would take each other's messages. Workers and dispatchers of the other one
    stop, or treat the broker as away, as soon as they look again.
    """
    from penstock.dispatch.ownership import Ownership

    preflight.check(app, broker=False)
    with connect(app.settings.broker, timeout_s=1.0) as client:
        ownership = Ownership(app.settings, app.store, client)
        try:
            ownership.compare()
        except NamespaceTaken as error:
            if not yes:
                if not sys.stdin.isatty():
                    raise click.UsageError(f"{error.message}: confirm with --yes.") from None
                click.confirm(f"{error.message}. Take it over?", abort=True, err=True)
        before = ownership.take()
    if app.out.json:
        app.out.data(
            {"namespace": app.settings.namespace, "database": app.store.where, "before": before and before.where}
        )
    else:
        app.out.line(app.store.where)
        app.out.say("was this database's" if before is None else f"taken over from {before.where or before.database}")


def _reachable(app: App) -> None:
    """Raise ``StoreUnavailable`` within a second when nobody answers; a missing schema is what we are here for."""
    try:
        app.store.check()
    except SchemaOutdated:
        return
