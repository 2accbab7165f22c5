"""What has come out of a run's steps so far. Values are read when they are asked for: most decisions need none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from penstock.errors import NoValue
from penstock.job import OPEN
from penstock.store.records import STATES
from penstock.store.runs.plans import Plan
from penstock.store.session import Session

_TOO_DEEP = "there are too many values inside each other"

_OUTPUTS = """
    SELECT path, output FROM penstock_job
    WHERE run_id = :run AND path {in paths} AND {hidden state = 'succeeded'}"""
# By name, one look-up each: the elements of maps are passed over without being read.
_STEPS = """
    SELECT path, state, generation FROM penstock_job WHERE run_id = :run AND path {in names}"""
_MAPS = "SELECT path, pending, failed FROM penstock_map WHERE run_id = :run"
# The paths of a map's elements begin with its name and a bracket; the next character after it ends them.
_ELEMENTS = """
    SELECT path, output FROM penstock_job
    WHERE run_id = :run AND path >= :low AND path < :high AND {hidden state = 'succeeded'}"""


def element(name: str, index: int) -> str:
    """The path of one of a map's elements."""
    return f"{name}[{index}]"


def place(path: str) -> tuple[str, int | None]:
    """The name of a path's step, and which element of a map it is, if any."""
    name, bracket, rest = path.partition("[")
    return name, int(rest[:-1]) if bracket else None


def written(value: Any) -> str:
    """JSON text of what an expression has made; raises ``NoValue`` for what is too deep: each part of it was not."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise NoValue(_TOO_DEEP) from None


def value_of(text: str) -> Any:
    """The value of JSON text that is stored; raises ``NoValue``."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:  # whoever wrote it had more room
        raise NoValue(_TOO_DEEP) from None


class Standing(NamedTuple):
    """Steps: ``ended`` well, ``begun`` (ended or not), and ``failed`` or ``open`` in this generation."""

    ended: set[str]
    begun: set[str]
    failed: set[str]
    open: set[str]


def standing(session: Session, run: str, generation: int, plan: Plan) -> Standing:
    """Where the steps of a run are; what is not in it has not begun."""
    rows = session.all(_STEPS, {"run": run, "names": session.ids(plan.plain)})
    ended = {path for path, state, _ in rows if state == "succeeded"}
    begun = ended | {path for path, _, since in rows if since == generation}
    failed = {path for path, state, since in rows if state == "failed" and since == generation}
    open = {path for path, state, since in rows if since == generation and STATES[state] in OPEN}
    if len(plan.plain) < len(plan.steps):
        counted = session.all(_MAPS, {"run": run})
        ended |= {path for path, pending, _ in counted if pending == 0}
        begun |= {path for path, _, _ in counted}
        failed |= {path for path, _, since in counted if since == generation}
        open |= {path for path, pending, _ in counted if pending}
    return Standing(ended, begun, failed, open)


class Outputs(Mapping[str, Any]):
    """Outputs by step. ``ended`` are the steps that have one; without it, all that are asked for are taken to."""

    def __init__(self, session: Session, run: str, plan: Plan, ended: Iterable[str] | None = None) -> None:
        self._session = session
        self._run = run
        self._plan = plan
        self._ended = frozenset(plan.steps if ended is None else ended)
        self._read: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._ended

    def __iter__(self) -> Iterator[str]:
        return iter(self._ended)

    def __len__(self) -> int:
        return len(self._ended)

    def __getitem__(self, name: str) -> Any:
        if name not in self._ended:
            raise KeyError(name)
        if name not in self._read:
            self.load([name])
        return self._read[name]

    def load(self, names: Iterable[str]) -> None:
        """Read these at once."""
        wanted = [name for name in names if name in self._ended and name not in self._read]
        plain = [name for name in wanted if not self._plan.steps[name].maps]
        if plain:
            values = {"run": self._run, "paths": self._session.ids(plain)}
            self._read |= {path: value_of(text) for path, text in self._session.all(_OUTPUTS, values)}
        for name in wanted:
            if self._plan.steps[name].maps:
                values = {"run": self._run, "low": f"{name}[", "high": f"{name}\\"}
                rows = self._session.all(_ELEMENTS, values)
                rows.sort(key=lambda row: place(row[0])[1] or 0)
                self._read[name] = [value_of(text) for _, text in rows]
