"""Which result backend the programs have whose plain tasks are in runs, and who reads it. PURE.

It is what their app has as ``result_backend``, and the settings that go with it. Redis and SQL are read in bulk, any
other one through Celery's own classes, which ask for one result at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.settings import Settings
from penstock.urltext import HIDDEN, NO_URL, safe_url

REDIS = frozenset({"redis", "rediss", "sentinel", "redis+socket", "unix"})
SQL = ("db+", "database+")

#: Backends whose results nobody else can ask for.
_NOBODYS = {
    "rpc": "sends each result to the program that called the task, which a run is not",
    "cache+memory": "keeps results in the memory of the worker that has them",
    "disabled": "keeps no results",
}
#: Others that Celery takes without an address.
_NAMES = frozenset({*_NOBODYS, "django-db", "django-cache"})
_IN_MEMORY = frozenset({"", ":memory:"})


@dataclass(frozen=True, slots=True)
class Backend:
    """``url`` is as Celery is given it; ``variable`` is the setting that says so, and ``options`` are other settings of
    Celery's."""

    url: str = field(repr=False)
    variable: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def scheme(self) -> str:
        """What comes before ``://``; the whole of a name without."""
        return self.url.partition("://")[0].lower()

    @property
    def where(self) -> str:
        """For people, without secrets."""
        shown = safe_url(self.url)
        if shown != NO_URL:
            return shown
        # What is no URL may be a password in the wrong place.
        return f"{self.scheme}://{HIDDEN}" if "://" in self.url or self.scheme in _NAMES else NO_URL

    @property
    def nobodys(self) -> str:
        """Why nobody else can read it; empty where that is not known."""
        if self.scheme.endswith("sqlite") and self.scheme.startswith(SQL):
            path = self.url.partition("://")[2].partition("?")[0].removeprefix("/")
            return _NOBODYS["cache+memory"] if path in _IN_MEMORY else ""
        return _NOBODYS.get(self.scheme, "")


def backend_of(settings: Settings) -> Backend:
    """The one that plain tasks have, by the settings."""
    options = settings.celery.task_result_options
    if settings.celery.task_result_url is not None:
        return Backend(settings.celery.task_result_url, "PENSTOCK_CELERY__TASK_RESULT_URL", options)
    variable = "PENSTOCK_RESULT_URL" if settings.result_url is not None else "PENSTOCK_BROKER_URL"
    return Backend(settings.results, variable, options)
