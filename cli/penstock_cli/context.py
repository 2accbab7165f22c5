"""What a command is given: the common options, the settings they lead to, and connections that are closed for it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock_cli.output import Output

if TYPE_CHECKING:
    from penstock import Client
    from penstock.settings import Settings
    from penstock.store import Store


class App:
    """One invocation of ``penstock``."""

    def __init__(self) -> None:
        self.out = Output()
        self.debug = False
        self.flags: dict[str, Any] = {}
        self._open = ExitStack()

    def set(self, name: str, value: Any) -> None:
        """Take a common option."""
        if name == "json":
            self.out.json = True
        elif name == "quiet":
            self.out.quiet = True
        elif name == "debug":
            self.debug = True
        elif name == "settings":
            for assignment in value:
                _assign(self.flags, assignment)
        else:
            self.flags[name] = value

    @cached_property
    def settings(self) -> Settings:
        """The effective settings; flags win."""
        from penstock.settings import Settings

        flags = dict(self.flags)
        if self.debug:
            flags.setdefault("log_level", "debug")
        return Settings.load(**flags)

    def with_models(self, modules: tuple[str, ...]) -> Settings:
        """The settings with these modules added to those that define models."""
        settings = self.settings
        every = list(dict.fromkeys([*settings.models, *(_module(module) for module in modules)]))
        return settings.model_copy(update={"models": every})

    def log_to_stderr(self) -> None:
        """Warnings only, unless all is asked for: stdout is for what the command answers."""
        from penstock.telemetry.logs import configure_logs

        configure_logs("debug" if self.debug else "warning")

    @cached_property
    def client(self) -> Client:
        """A client; closed when the command ends."""
        from penstock.client import Client

        self.log_to_stderr()
        return self._open.enter_context(Client(self.settings))

    @cached_property
    def store(self) -> Store:
        """The store; closed when the command ends."""
        from penstock.store import Store

        store = Store.open(self.settings.database)
        self._open.callback(store.close)
        return store

    def close(self) -> None:
        """Close what was opened."""
        self._open.close()


def _assign(flags: dict[str, Any], assignment: str) -> None:
    import click

    name, equals, value = assignment.partition("=")
    *path, last = name.strip().split(".")
    for part in path:
        flags = flags.setdefault(part, {}) if isinstance(flags, dict) else flags
    if not equals or not name or not isinstance(flags, dict):
        raise click.BadParameter(f"{assignment!r} is not NAME=VALUE, for example lease.ttl_s=10", param_hint="--set")
    flags[last] = value


def _module(name: str) -> str:
    # `penstock up my_models.py` from a completed file name; a path stays a path.
    return str(Path(name)) if name.endswith(".py") and os.sep in name else name
