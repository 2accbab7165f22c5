"""What has come out of a run's steps so far. Values are read when they are asked for: most decisions need none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock.errors import NoValue
from penstock.job import OPEN
from penstock.pipelines.frontier import Outline
from penstock.store.records import STATES
from penstock.store.session import Session

_TOO_DEEP = "there are too many values inside each other"

_OUTPUTS = """
    SELECT run_id, penstock_job.path, output FROM {each rows}
    JOIN penstock_job ON run_id = {0 text} AND penstock_job.path = {1 text} WHERE {hidden state = 'succeeded'}"""
# By name, one look-up each: the elements of maps are passed over without being read.
_STEPS = """
    SELECT path, state, generation FROM penstock_job WHERE run_id = :run AND path {in names}"""
_MAPS = "SELECT path, pending, failed FROM penstock_map WHERE run_id = :run"
_STEPS_OF = """
    SELECT run_id, penstock_job.path, state, generation FROM {each rows}
    JOIN penstock_job ON run_id = {0 text} AND penstock_job.path = {1 text}"""
_MAPS_OF = "SELECT run_id, path, pending FROM penstock_map WHERE run_id {in runs}"
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


#: Of a run in which nothing has begun.
NEW = Standing(set(), set(), set(), set())
#: A run, its generation and plan, and the steps that are asked for.
Look = tuple[str, int, Outline, Sequence[str]]


def standing(session: Session, run: str, generation: int, plan: Outline) -> Standing:
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


def standings(session: Session, looks: Sequence[Look]) -> dict[str, Standing]:
    """Where some steps of some runs are; two statements for all of them."""
    found = {run: Standing(set(), set(), set(), set()) for run, _, _, _ in looks}
    generations = {run: generation for run, generation, _, _ in looks}
    pairs = [(run, name) for run, _, plan, names in looks for name in names if not plan.steps[name].maps]
    for run, path, state, since in session.all(_STEPS_OF, {"rows": session.rows(pairs)}) if pairs else ():
        if state == "succeeded":
            found[run].ended.add(path)
        if state == "succeeded" or since == generations[run]:
            found[run].begun.add(path)
    mapping = [run for run, _, plan, names in looks if any(plan.steps[name].maps for name in names)]
    for run, path, pending in session.all(_MAPS_OF, {"runs": session.ids(mapping)}) if mapping else ():
        found[run].begun.add(path)
        if pending == 0:
            found[run].ended.add(path)
    return found


class Outputs(Mapping[str, Any]):
    """Outputs by step. ``ended`` are the steps that have one; without it, all that are asked for are taken to."""

    def __init__(self, session: Session, run: str, plan: Outline, ended: Iterable[str] | None = None) -> None:
        self.session = session
        self.run = run
        self.plan = plan
        self._ended = frozenset(plan.steps if ended is None else ended)
        self._texts: dict[str, str | list[str]] = {}
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
            text = self._texts[name]
            self._read[name] = value_of(text) if isinstance(text, str) else list(map(value_of, text))
        return self._read[name]

    def take(self, name: str, text: str | list[str]) -> None:
        """What was read, JSON; of a map a text for each element."""
        self._texts[name] = text

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of these that are there, and have not been read."""
        return [name for name in names if name in self._ended and name not in self._texts]

    def load(self, names: Iterable[str]) -> None:
        """Read these at once."""
        load([(self, names)])


def load(wanted: Iterable[tuple[Outputs, Iterable[str]]]) -> None:
    """Read outputs of many runs: those of plain steps by one statement."""
    pairs: list[tuple[str, str]] = []
    by_run: dict[str, list[Outputs]] = {}
    for outputs, names in wanted:
        for name in outputs.wanted(names):
            if outputs.plan.steps[name].maps:
                outputs.take(name, _elements(outputs, name))
            else:
                pairs.append((outputs.run, name))
                by_run.setdefault(outputs.run, []).append(outputs)
    if pairs:
        session = by_run[pairs[0][0]][0].session
        for run, path, text in session.all(_OUTPUTS, {"rows": session.rows(list(dict.fromkeys(pairs)))}):
            for outputs in by_run[run]:
                outputs.take(path, text)


def element_outputs(session: Session, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """JSON texts of elements' outputs, by run and path; of those that have succeeded."""
    rows = list(dict.fromkeys(pairs))
    if not rows:
        return {}
    return {(run, path): text for run, path, text in session.all(_OUTPUTS, {"rows": session.rows(rows)})}


def _elements(outputs: Outputs, name: str) -> list[str]:
    values = {"run": outputs.run, "low": f"{name}[", "high": f"{name}\\"}
    rows = outputs.session.all(_ELEMENTS, values)
    rows.sort(key=lambda row: place(row[0])[1] or 0)
    return [text for _, text in rows]
