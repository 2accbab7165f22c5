"""What has come out of a run's steps so far. Values are read when they are asked for: most decisions need none."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock.errors import InvalidOutput, NoValue, TooMuchWork
from penstock.job import OPEN
from penstock.pipelines.frontier import Outline
from penstock.store.records import STATES
from penstock.store.session import Session

#: Most characters of outputs that one decision reads, where a single output may not have more.
MOST_READ = 16 * 2**20
#: Characters that are read in the time of one operation, and operations that it takes to find a row.
DECODED, LOOK = 256, 3

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


def limited(session: Session, what: str, text: str) -> None:
    """Raise ``InvalidOutput`` for more than an output may be."""
    if len(text) > session.max_output_bytes:
        raise InvalidOutput(
            f"{what} has {len(text):,} bytes of JSON; the limit is {session.max_output_bytes:,}:"
            " PENSTOCK_JOB__MAX_OUTPUT_BYTES"
        )


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

    def begin(self, names: Iterable[str], ended: Iterable[str]) -> None:
        """These have begun, and some of them have ended by that."""
        self.begun.update(names)
        self.ended.update(ended)
        self.open.update(set(names).difference(ended))

    @classmethod
    def new(cls) -> Standing:
        """Of a run in which nothing has begun."""
        return cls(set(), set(), set(), set())


def most_read(session: Session) -> int:
    """Characters of outputs that one decision may read: one output may be as long as outputs may be."""
    most = session.max_output_bytes
    return MOST_READ if most == sys.maxsize else max(MOST_READ, most)


#: A run, its generation and plan, the steps that are known to have ended, and those that are asked for.
Look = tuple[str, int, Outline, Collection[str], Sequence[str]]


def standing(session: Session, run: str, generation: int, plan: Outline) -> Standing:
    """Where the steps of a run are; what is not in it has not begun."""
    session.spent += LOOK * len(plan.plain)
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
    found = {run: Standing(set(ended), set(ended), set(), set()) for run, _, _, ended, _ in looks}
    generations = {run: generation for run, generation, *_ in looks}
    pairs = [(run, name) for run, _, plan, _, names in looks for name in names if not plan.steps[name].maps]
    session.spent += LOOK * len(pairs)
    for run, path, state, since in session.all(_STEPS_OF, {"rows": session.rows(pairs)}) if pairs else ():
        if state == "succeeded":
            found[run].ended.add(path)
        if state == "succeeded" or since == generations[run]:
            found[run].begun.add(path)
    mapping = [run for run, _, plan, _, names in looks if any(plan.steps[name].maps for name in names)]
    for run, path, pending in session.all(_MAPS_OF, {"runs": session.ids(mapping)}) if mapping else ():
        found[run].begun.add(path)
        if pending == 0:
            found[run].ended.add(path)
    return found


class Outputs(Mapping[str, Any]):
    """Outputs by step. ``ended`` are the steps that have one; without it, all that are asked for are taken to.

    With ``most``, all that are read together have no more characters: raises ``TooMuchWork``.
    """

    def __init__(
        self,
        session: Session,
        run: str,
        plan: Outline,
        ended: Iterable[str] | None = None,
        *,
        most: int | None = None,
    ) -> None:
        self.session = session
        self.run = run
        self.plan = plan
        self._most = most
        self._characters = 0
        self._ended = set(plan.steps if ended is None else ended)
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
            if name not in self._texts:
                self.load([name])
            text = self._texts[name]
            self._read[name] = value_of(text) if isinstance(text, str) else list(map(value_of, text))
        return self._read[name]

    @property
    def room(self) -> int | None:
        """How many characters may still be read."""
        return None if self._most is None else self._most - self._characters

    def end(self, names: Iterable[str]) -> None:
        """These have ended, too."""
        self._ended.update(names)

    def take(self, name: str, text: str | list[str]) -> None:
        """What was read, JSON; of a map a text for each element."""
        if self._most is not None and name not in self._texts:
            size = len(text) if isinstance(text, str) else sum(map(len, text))
            self._characters += size
            self.session.spent += size // DECODED
            if self._characters > self._most:
                raise self.too_long()
        self._texts[name] = text

    def too_long(self) -> TooMuchWork:
        """Why no more is read."""
        return TooMuchWork(
            f"the outputs that conditions and the run's output need have more than {self._most:,} characters: take what"
            " is needed of them in a step, or raise PENSTOCK_JOB__MAX_OUTPUT_BYTES"
        )

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of these that are there, and have not been read."""
        return [name for name in names if name in self._ended and name not in self._texts]

    def load(self, names: Iterable[str]) -> None:
        """Read these at once."""
        if not load([(self, names)]):
            raise self.too_long()


def load(wanted: Iterable[tuple[Outputs, Iterable[str]]]) -> bool:
    """Read outputs of many runs: those of plain steps by one statement.

    False where all of them are longer than one run may read: then they are to be read run by run.
    """
    pairs: dict[tuple[str, str], None] = {}
    by_run: dict[str, dict[int, Outputs]] = {}
    for outputs, names in wanted:
        for name in outputs.wanted(names):
            if outputs.plan.steps[name].maps:
                outputs.take(name, _elements(outputs, name))
            elif (text := outputs.session.outputs.get((outputs.run, name))) is not None:
                outputs.take(name, text)
            else:
                pairs[outputs.run, name] = None
                by_run.setdefault(outputs.run, {})[id(outputs)] = outputs
    if pairs:
        first = next(iter(next(iter(by_run.values())).values()))
        rows = _select(first, _OUTPUTS, {"rows": first.session.rows(list(pairs))})
        if rows is None:
            return False
        for run, path, text in rows:
            for outputs in by_run[run].values():
                outputs.take(path, text)
    return True


def _select(outputs: Outputs, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]] | None:
    if outputs.room is None:
        return outputs.session.all(statement, values)
    return outputs.session.most(statement, values, outputs.room)


def element_outputs(session: Session, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """JSON texts of elements' outputs, by run and path; of those that have succeeded."""
    rows = list(dict.fromkeys(pairs))
    if not rows:
        return {}
    return {(run, path): text for run, path, text in session.all(_OUTPUTS, {"rows": session.rows(rows)})}


def _elements(outputs: Outputs, name: str) -> list[str]:
    values = {"run": outputs.run, "low": f"{name}[", "high": f"{name}\\"}
    rows = _select(outputs, _ELEMENTS, values)
    if rows is None:
        raise outputs.too_long()
    rows.sort(key=lambda row: place(row[0])[1] or 0)
    return [text for _, text in rows]
