"""What has come out of a run's steps so far. Values are read when they are asked for: most decisions need none."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from penstock.errors import InvalidOutput, NoValue, TooMuchWork
from penstock.pipelines.frontier import Outline
from penstock.store.runs.paths import elements_of, place
from penstock.store.session import Session

#: Most characters of outputs that one decision reads, where a single output may not have more.
MOST_READ = 16 * 2**20
#: Characters that are read in the time of one operation.
DECODED = 256

_TOO_DEEP = "there are too many values inside each other"

_OUTPUTS = """
    SELECT run_id, penstock_job.path, output FROM {each rows}
    JOIN penstock_job ON run_id = {0 text} AND penstock_job.path = {1 text} WHERE {hidden state = 'succeeded'}"""
_ELEMENTS = """
    SELECT path, output FROM penstock_job
    WHERE run_id = :run AND path >= :low AND path < :high AND {hidden state = 'succeeded'}"""


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


def most_read(session: Session) -> int:
    """Characters of outputs that one decision may read: one output may be as long as outputs may be."""
    most = session.max_output_bytes
    return MOST_READ if most == sys.maxsize else max(MOST_READ, most)


class Outputs(Mapping[str, Any]):
    """Outputs by step, read when they are asked for. ``ended`` are the steps that have one; without it, every step that
    is asked for is taken to have one.

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
    rows = _select(outputs, _ELEMENTS, {"run": outputs.run, **elements_of(name)})
    if rows is None:
        raise outputs.too_long()
    rows.sort(key=lambda row: place(row[0])[1] or 0)
    return [text for _, text in rows]
