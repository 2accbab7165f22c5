"""Logs: a constant message, a stable ``action``, and the data in fields.

On a terminal they are coloured lines, elsewhere one JSON object a line; always on stderr, since stdout is data.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog


def _console() -> structlog.dev.ConsoleRenderer:
    # The pretty tracebacks show local variables: addresses with passwords, and users' inputs.
    coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return structlog.dev.ConsoleRenderer(colors=coloured, exception_formatter=structlog.dev.plain_traceback)


def configure_logs(level: str = "info", *, json: bool | None = None) -> None:
    """Set up structlog and the standard library's root logger for a process of ours. Call once, at entry."""
    number = getattr(logging, level.upper())
    as_json = not sys.stderr.isatty() if json is None else json
    renderer = structlog.processors.JSONRenderer() if as_json else _console()
    errors = structlog.processors.format_exc_info if as_json else structlog.processors.ExceptionRenderer()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        # A person looks at the clock on the wall.
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    if as_json:
        shared.append(errors)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Celery, kombu and the rest log through the standard library: the same form, warnings and above.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger("penstock").setLevel(number)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
