"""What callers pass to look at jobs and wait for them, checked before anything is asked. PURE.

A value of a wrong type would otherwise fail where it is used: in a database's driver, with the driver's words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from penstock.errors import InvalidInput

#: Most jobs that one list may have: they are held in memory.
MAX_LIST = 1_000_000


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The ``fix`` for a name that is not known: the nearest of those that are, else ``otherwise``."""
    near = get_close_matches(name[:150], list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def job_id(value: Any, name: str = "id") -> None:
    """Raise ``InvalidInput`` for what can be the id of no job."""
    if not isinstance(value, str) or not value or not storable(value):
        raise InvalidInput(
            f"{name}={shown(value)} is no job's id", fix="pass the id as text, as enqueue() and list() gave it"
        )


def text(name: str, value: Any) -> None:
    """Raise ``InvalidInput`` for what is no text that a database can hold."""
    if not isinstance(value, str) or not storable(value):
        raise InvalidInput(f"{name}={shown(value)} is no text", fix=f'for example {name}="acme"')


def status(value: Any) -> str | None:
    """The state that is looked for, as text; whether there is such a one, the list itself knows."""
    if value is None:
        return None
    text("status", value)
    return str(value)


def limit(value: Any) -> None:
    """Raise ``InvalidInput`` for what is no number of rows."""
    if type(value) is not int or not 0 <= value <= MAX_LIST:
        raise InvalidInput(
            f"limit={shown(value)} is no whole number from 0 to {MAX_LIST:,}",
            fix="pass how many jobs the list may have; `before` goes on behind the last one",
        )


def tag(value: Any) -> tuple[str, str | None]:
    """Name and value of the tag that is looked for; no value means any. Raises ``InvalidInput``."""
    if isinstance(value, str) and storable(value):
        name, equals, wanted = value.partition("=")
        return name, wanted if equals else None
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, str) and storable(v) for v in value):
        return value[0], value[1]
    raise InvalidInput(
        f"tag={shown(value)} is no tag", fix='pass a name, "name=value" or ("name", "value"): tag=("run", "7")'
    )


def wait_s(value: Any, name: str = "timeout") -> float | None:
    """How long to wait, seconds; ``None`` is for ever. Raises ``InvalidInput``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidInput(f"{name}={shown(value)} is no time", fix=f"pass {name} in seconds, or None")
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return None if math.isinf(seconds) and seconds > 0 else seconds


def handles(values: Any, kind: type[Any]) -> list[Any]:
    """The handles of jobs; raises ``InvalidInput`` for anything else."""
    if isinstance(values, (str, bytes, Mapping, kind)) or not isinstance(values, Iterable):
        raise InvalidInput(
            f"jobs is one {type(values).__name__}, not many handles", fix="pass a list: as_completed([job, …])"
        )
    found = list(values)
    for value in found:
        if not isinstance(value, kind):
            raise InvalidInput(
                f"{shown(value)} is no handle of this client",
                fix="pass what enqueue() gave; get(id) makes one of an id",
            )
    return found


def many(values: Any) -> Iterable[Any]:
    """The ids or handles of many jobs, not read yet; raises ``InvalidInput`` for what is one thing."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidInput(f"jobs={shown(values)} is one thing, not many jobs", fix="pass a list of ids or handles")
    return values


def shown(value: Any) -> str:
    """The value for an error's text: short, and whatever its own ``repr`` does."""
    try:
        words = repr(value)
    except Exception:
        words = f"<a {type(value).__name__}>"
    words = words.encode("ascii", "backslashreplace").decode() if not storable(words) else words
    return words if len(words) < 60 else f"{words[:56]}…"


def storable(value: str) -> bool:
    """Neither NUL nor half of a surrogate pair."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
