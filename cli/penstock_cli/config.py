"""``penstock config show``: each effective value, and where it came from."""

from __future__ import annotations

from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.effective import effective


@group()
def config() -> None:
    """The effective settings."""


@config.command("show")
@pass_app
def show(app: App) -> None:
    """Print every setting: its value, where it came from, and what it means. Secrets are not shown.

    Order of precedence: flags, PENSTOCK_* variables, the secrets directory, penstock.toml, defaults.
    """
    found = effective(app.settings, app.flags)
    if app.out.json:
        app.out.data({item.name: {"value": item.value, "source": item.source} for item in found})
        return
    app.out.table(
        ("setting", "value", "source", "meaning"),
        [(item.name, item.text, item.source, item.meaning) for item in found],
        wide=("value", "source", "meaning"),
    )
    app.out.say(f"\nas a variable: {found[-1].variable}; as a flag: --set {found[-1].name}=VALUE")
