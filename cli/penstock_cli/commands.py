"""Click, adapted: groups that import their commands when used, and options that every command takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from penstock.processes.lean import without_rich
from penstock_cli.context import App

Sections = Mapping[str, Mapping[str, tuple[str, str]]]


def _note(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    # Given before or after the command's name: what is given last, and is given at all, counts.
    if value is not None and value is not False and value != () and not ctx.resilient_parsing:
        ctx.ensure_object(App).set(str(option.name), value)


def common_options() -> list[click.Option]:
    """Fresh instances of the options that all commands take."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _note}
    return [
        click.Option(["--json", "json"], is_flag=True, help="Print JSON.", **shared),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print no messages, only data and errors.", **shared),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks and debug logs.", **shared),
        click.Option(["--home"], metavar="DIR", help="Where files live (default ~/.penstock).", **shared),
        click.Option(["--broker-url"], metavar="URL", help="Redis; default: the embedded broker.", **shared),
        click.Option(["--database-url"], metavar="URL", help="SQL; default: SQLite under --home.", **shared),
        click.Option(
            ["-s", "--set", "settings"],
            metavar="NAME=VALUE",
            multiple=True,
            help="Any other setting, for example lease.ttl_s=10.",
            **shared,
        ),
    ]


class _Common(click.Command):
    """Adds the common options, and shows them under a heading of their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._common = common_options()
        self.params = [*self.params, *self._common]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the common ones."""
        common = [record for option in self._common if (record := option.get_help_record(ctx))]
        own = [
            record
            for option in self.get_params(ctx)
            if option not in self._common and (record := option.get_help_record(ctx))
        ]
        for heading, records in (("Options", own), ("Common options", common)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class CommonCommand(_Common):
    """A command with the common options."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        """Parse; a negative number that looks like an option is explained."""
        try:
            return super().make_context(info_name, args, *more, **extra)
        except click.NoSuchOption as error:
            if not error.option_name[1:2].isdigit():
                raise
            hint = f"{error.option_name!r} is read as an option. Put -- before a negative number."
            raise click.UsageError(hint, error.ctx) from None


class CommonGroup(_Common, click.Group):
    """A group whose commands are named in ``sections`` and imported on first use.

    A module that is named has an attribute of the command's name (``-`` read as ``_``), or ``command``.
    """

    command_class = CommonCommand

    def __init__(self, *args: Any, sections: Sections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections or {}
        self._lazy = {name: entry for section in self._sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the sections."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command, if it is one of ours."""
        if name in self._lazy and name not in self.commands:
            with without_rich():
                module = import_module(self._lazy[name][0])
            self.add_command(getattr(module, "command", None) or getattr(module, name), name)
        return self.commands.get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with every name as a possible spelling."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, self.list_commands(ctx), n=2)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section, from the table: nothing is imported."""
        if not self._sections:
            super().format_commands(ctx, formatter)
        for heading, section in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])


command: Callable[..., Callable[[Callable[..., Any]], CommonCommand]] = functools.partial(
    click.command, cls=CommonCommand
)
group: Callable[..., Callable[[Callable[..., Any]], CommonGroup]] = functools.partial(click.group, cls=CommonGroup)
#: Gives a command the ``App`` as its first argument.
pass_app: Callable[[Callable[..., Any]], Callable[..., Any]] = click.make_pass_decorator(App)
