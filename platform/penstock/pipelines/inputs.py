"""What a run is given, by the names of the pipeline's inputs. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.arguments import nearest
from penstock.errors import InvalidInput


def by_name(pipeline: str, names: Sequence[str], inputs: Any) -> dict[str, Any]:
    """The inputs, of which some may be missing; raises ``InvalidInput`` for what has no names, or others."""
    if not isinstance(inputs, Mapping):
        example = ", ".join(f"{name!r}: …" for name in names)
        raise InvalidInput(
            f"pipeline {pipeline!r} is given its inputs by name, not {type(inputs).__name__}",
            fix=f"pass {{{example}}}",
        )
    given = {str(name): value for name, value in inputs.items()}
    for name in given:
        if name not in names:
            raise InvalidInput(
                f"pipeline {pipeline!r} has no input {name!r:.80}",
                fix=nearest(name, names, f"its inputs: {', '.join(names[:20]) or 'none'}"),
            )
    return given


def by_position(what: str, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, as Python binds them, by name; some may be missing. Raises ``InvalidInput``."""
    fix = f"its arguments, in this order: {', '.join(names[:20]) or 'none'}"
    if len(args) > len(names):
        raise InvalidInput(f"{what} is given {len(args)} arguments, and takes {len(names)}", fix=fix)
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise InvalidInput(f"{what} takes no {name!r:.80}", fix=nearest(name, names, fix))
        if name in given:
            raise InvalidInput(f"{what} is given {name!r} twice, by position and by name", fix=fix)
        given[name] = value
    return given


def missing_input(pipeline: str, name: str) -> InvalidInput:
    """The refusal of a run without this input."""
    return InvalidInput(f"pipeline {pipeline!r} is given no {name!r}", fix=f"pass {{{name!r}: …}}")
