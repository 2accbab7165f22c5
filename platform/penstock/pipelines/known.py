"""Names that users say of a graph. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from penstock.arguments import shown
from penstock.errors import InvalidInput
from penstock.pipelines.frontier import Outline


def check_names(what: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Raise ``InvalidInput`` for a name of a step or an input that is not among those that there are."""
    for name in names:
        if name not in there:
            near = get_close_matches(name, list(there), n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(list(there)[:20]) or 'none'}"
            raise InvalidInput(f"the run's graph has no {what} {name!r:.80}", fix=fix)


def check_path(plan: Outline, path: str) -> None:
    """The same for the path of a step, of an element, or of what a step has answered with, which no graph knows."""
    if not isinstance(path, str):
        raise InvalidInput(f"step={shown(path)} is no step", fix="pass its name: step='generate'")
    check_names("step", [path.partition("/")[0].partition("[")[0]], plan.steps)
