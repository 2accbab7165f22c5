"""The names that a user says of a graph: its steps and its inputs. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.arguments import nearest, shown
from penstock.errors import InvalidInput
from penstock.pipelines.frontier import Outline


def check_names(what: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Raise ``InvalidInput`` for a name of a step or an input that is not among those that there are."""
    for name in names:
        if name not in there:
            fix = nearest(name, there, f"there are: {', '.join(list(there)[:20]) or 'none'}")
            raise InvalidInput(f"the run's graph has no {what} {name!r:.80}", fix=fix)


def check_path(plan: Outline, path: str) -> None:
    """The same for the path of a step, of an element, or of what a step has answered with, which no graph knows."""
    if not isinstance(path, str):
        raise InvalidInput(f"step={shown(path)} is no step", fix="pass its name: step='generate'")
    check_names("step", [path.partition("/")[0].partition("[")[0]], plan.steps)
