"""``penstock doctor``: is everything in order, and if not, what to type."""

from __future__ import annotations

import platform
from dataclasses import asdict

from penstock import __version__
from penstock_cli.checks import ERROR, OK, WARNING, Finding, findings
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.effective import effective
from penstock_cli.errors import FAILED, UNREACHABLE
from penstock_cli.layout import wrap
from penstock_cli.output import colour


@verb()
@pass_app
def command(app: App) -> int | None:
    """Print each effective setting with its source, then check servers, workers and this machine.

    With -q, what was found alone.
    Exit status 0 when nothing is wrong (warnings are not), 3 when a server is not reachable, 1 for anything else.
    """
    settings = effective(app.settings, app.flags)
    if app.out.json:
        found = list(findings(app))
        app.out.data(
            {
                "version": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "settings": {item.name: {"value": item.value, "source": item.source} for item in settings},
                "findings": [asdict(finding) for finding in found],
            }
        )
        return _status(found)
    if not app.out.quiet:
        app.out.line(f"penstock {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        app.out.table(
            ("setting", "value", "source"),
            [(item.name, item.text, item.source) for item in settings],
            wide=("value", "source"),
        )
        app.out.line()
    found = []
    for finding in findings(app):
        found.append(finding)
        status, indent = finding.status.ljust(len(WARNING)), " " * (len(WARNING) + 2)
        words = wrap(f"{status}  {finding.name}: {finding.detail}", app.out.width, indent=indent)
        app.out.line(colour(status) + words.removeprefix(status))
        if finding.status != OK and finding.fix:
            app.out.line(indent + wrap(f"fix: {finding.fix}", app.out.width and app.out.width - 9, indent=indent))
        app.out.flush()
    return _status(found)


def _status(found: list[Finding]) -> int | None:
    if any(finding.unreachable for finding in found):
        return UNREACHABLE
    return FAILED if any(finding.status == ERROR for finding in found) else None
