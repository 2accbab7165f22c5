"""Parameter types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from penstock.settings import Settings

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


class Duration(click.ParamType[float]):
    """Seconds, written ``90``, ``90s``, ``1.5m``, ``2h`` or ``7d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds as a float."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d|)", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no duration: write 90, 90s, 1.5m, 2h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Tag(click.ParamType[tuple[str, str]]):
    """``name=value``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The two halves."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE, for example run=7", param, ctx)
        return name, text


metrics_port_option = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve figures for Prometheus there, at /metrics; 0: any free port.",
)


def with_metrics_port(settings: Settings, port: int | None) -> Settings:
    """The settings with ``--metrics-port`` applied."""
    if port is None:
        return settings
    return settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"port": port})})


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Model names for the shell, from what workers announced. Silent when the database does not answer."""
    return _announced(ctx, incomplete, ("models",))


def complete_pipeline(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The same of pipelines."""
    return _announced(ctx, incomplete, ("pipelines",))


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The same of both: what jobs are listed by."""
    return _announced(ctx, incomplete, ("models", "pipelines"))


def _announced(ctx: click.Context, incomplete: str, kinds: Sequence[str]) -> list[str]:
    from penstock_cli.context import App

    app = ctx.find_root().ensure_object(App)
    try:
        names = {name for kind in kinds for name in getattr(app.store, kind)()}
        return sorted(name for name in names if name.startswith(incomplete))
    except Exception:  # a shell that completes must not print errors
        return []
    finally:
        app.close()
