"""Whether the parts of a stack are there, and what to type when they are."""

from __future__ import annotations

import http.client
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from penstock.settings import Settings
from penstock.urltext import safe_url
from penstock_cli.up.probe import ModelInfo


def dashboard_answers(url: str | None) -> bool:
    """Whether something speaks HTTP there; ``True`` when there is no dashboard."""
    if url is None:
        return True
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1.0)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def example_command(settings: Settings, models: Sequence[ModelInfo]) -> str | None:
    """The next thing to type: a job for a model that is served, with an input that it takes."""
    for model in sorted(models, key=lambda model: (model.example is None, model.function)):
        words = ["penstock", "run", *options(settings), model.name, model.example or "…"]
        return shlex.join(words) if model.example else f"{shlex.join(words[:-1])} INPUT"
    return None


def options(settings: Settings) -> list[str]:
    """What a command needs that must work in another terminal too: the home, and servers that are not the embedded
    ones. A URL with a secret in it is not repeated.
    """
    usual = Path("~/.penstock").expanduser().absolute()
    words = [] if settings.home == usual else ["--home", str(settings.home)]
    for name, url in (("--broker-url", settings.broker_url), ("--database-url", settings.database_url)):
        words += [name, url] if url and safe_url(url) == url else []
    return words
