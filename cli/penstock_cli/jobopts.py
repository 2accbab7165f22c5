"""The options of a job, as ``submit``, ``run`` and ``batch run`` take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from penstock_cli.params import Duration, Tag

OPTIONS = (
    click.option("--lane", metavar="LANE", help="interactive (goes first) or background."),
    click.option("--tenant", metavar="NAME", help="Whose job it is."),
    click.option("--priority", type=int, metavar="0-9", help="Larger goes first within its lane."),
    click.option("--deadline", type=Duration(), metavar="DURATION", help="From now; a job not done by then expires."),
    click.option("--attempt-timeout", type=Duration(), metavar="DURATION", help="Limit on one attempt."),
    click.option("--idempotency-key", metavar="KEY", help="Same key and same body: the same job."),
    click.option("--webhook", metavar="URL", help="Called, signed, when the job has ended."),
    click.option("-t", "--tag", "tags", type=Tag(), multiple=True, metavar="NAME=VALUE", help="To find it by."),
    click.option("--max-parallel", type=int, metavar="N", help="Of a run: at most so many steps in flight."),
    click.option("--budget", type=Duration(), metavar="DURATION", help="Of a run: device time for its steps."),
    click.option("--delay", type=Duration(), metavar="DURATION", help="Do not start before."),
)


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a job to a command."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def as_keywords(options: dict[str, Any]) -> dict[str, Any]:
    """What was given, as the client's keyword arguments."""
    keywords = {name: value for name, value in options.items() if value is not None and value != ()}
    if "attempt_timeout" in keywords:
        keywords["timeout"] = keywords.pop("attempt_timeout")
    if "tags" in keywords:
        keywords["tags"] = dict(keywords["tags"])
    return keywords
