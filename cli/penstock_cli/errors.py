"""How an error looks on the terminal, and the exit status it gives.

A message takes three lines at most: what is wrong, and what to type. No traceback, unless ``--debug`` asks for it.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from penstock.errors import (
    ConfigError,
    IllegalTransition,
    JobNotFound,
    Overloaded,
    PenstockError,
    Rejected,
    ResultTimeout,
    SchemaOutdated,
    Unreachable,
    WebhookRefused,
)
from penstock_cli.context import App
from penstock_cli.layout import wrap
from penstock_cli.output import columns, drop_output, dumps
from penstock_cli.textio import visible

OK, FAILED, USAGE, UNREACHABLE, TIMEOUT, FAULT, OVERLOADED, INTERRUPTED = 0, 1, 2, 3, 4, 70, 75, 130

#: What a full disk, a spent quota or a limit on a file's size give.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_USAGE = (Rejected, ConfigError, JobNotFound, IllegalTransition, WebhookRefused)


def status_of(error: PenstockError) -> int:
    """The exit status of an error of ours."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    if isinstance(error, ResultTimeout):
        return TIMEOUT
    if isinstance(error, Overloaded) and error.reason == "overload":
        # The same command may do a moment later: EX_TEMPFAIL of sysexits.h.
        return OVERLOADED
    return USAGE if isinstance(error, _USAGE) else FAILED


def report(error: BaseException, app: App) -> int:
    """Print an error that ended the command; the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else OK if error.code is None else FAILED
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED
        case PenstockError():
            _debug(error, app)
            show(error, app)
            return status_of(error)
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return USAGE
        case click.UsageError():
            _usage(error, app)
            return USAGE
        case click.ClickException():
            _print(app, code="usage", message=error.format_message(), fix="")
            return USAGE
        case OSError() if error.filename is not None and error.strerror:
            # A file or folder of the user's choice, not a defect.
            _debug(error, app)
            _print(
                app,
                code="file",
                message=f"{error.filename}: {error.strerror}",
                fix="check that it exists, that it may be written, and that its disk is not full",
            )
            return USAGE
        case OSError() if error.errno in _FULL:
            _debug(error, app)
            _print(app, code="file", message=f"output cannot be written: {error.strerror}", fix="make room on its disk")
            drop_output()
            return USAGE
    _debug(error, app)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    _print(
        app,
        code="internal",
        message=f"a fault in penstock itself: {what}",
        fix="the same command with --debug shows where; please report it",
    )
    return FAULT


def fix_of(error: PenstockError, app: App) -> str:
    """What to type, with the flags that this user typed."""
    if not isinstance(error, SchemaOutdated):
        return error.fix
    settings = app.settings
    if settings.database_url is not None:
        typed = " --database-url …" if "database_url" in app.flags else ""
        return error.fix.replace("penstock db upgrade", f"penstock db upgrade{typed}")
    if not error.fix.startswith("penstock db upgrade"):  # a schema that no migration mends
        return error.fix
    if not _can_be_made(settings.home):
        return f"{settings.home} cannot be made: choose another folder with --home or PENSTOCK_HOME"
    typed = f" --home {shlex.quote(str(settings.home))}" if "home" in app.flags else ""
    return f"`penstock up my_models{typed}` sets everything up; for the database alone, `penstock db upgrade{typed}`"


def _can_be_made(home: Path) -> bool:
    """As far as can be seen without trying."""
    place = next(path for path in (home, *home.parents) if path.exists())
    return place.is_dir() and os.access(place, os.W_OK) and not home.is_relative_to("/proc")


def show(error: PenstockError, app: App) -> None:
    """Print an error of ours."""
    more = {"retry_after": error.retry_after, "reason": error.reason} if isinstance(error, Overloaded) else {}
    _print(app, code=error.code, message=error.message, fix=fix_of(error, app), **more)


def _usage(error: click.UsageError, app: App) -> None:
    path = error.ctx.command_path if error.ctx is not None else "penstock"
    _print(app, code="usage", message=error.format_message(), fix=f"`{path} --help` shows how it is used")


def _print(app: App, *, code: str, message: str, fix: str, **more: Any) -> None:
    if app.out.json:
        click.echo(dumps({"error": {"code": code, "message": message, "fix": fix or None, **more}}), err=True)
        return
    width = columns(sys.stderr)
    words = wrap(f"error: {visible(message)}", width, indent="  ").removeprefix("error")
    click.echo(f"{click.style('error', fg='red', bold=True)}{words}", err=True)
    if fix:
        words = wrap(f"  fix: {fix}", width, indent="    ").removeprefix("  fix")
        click.echo(f"  {click.style('fix', fg='green')}{words}", err=True)


def _debug(error: BaseException, app: App) -> None:
    if app.debug:
        traceback.print_exception(error, file=sys.stderr)
