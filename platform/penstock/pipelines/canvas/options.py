"""Which options of a signature a run keeps, leaves to the broker, or refuses. PURE.

Those of a call of a model are read in ``modeloptions``, those of a plain task in ``taskoptions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.arguments import shown
from penstock.errors import InvalidInput

#: Options of messages and of results at a backend, which steps of a run have not: where they are sent from is SQL.
_OF_MESSAGES = frozenset((
    "task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chord_size", "reply_to", "correlation_id",
    "add_to_parent", "ignore_result", "serializer", "compression", "retry", "retry_policy", "delivery_mode",
    "mandatory", "shadow", "argsrepr", "kwargsrepr", "headers", "producer", "publisher", "connection",
))  # fmt: skip

#: What is wrong with an option, and what to do instead.
Refusals = Mapping[str, tuple[str, str]]

_STAMP = ("is stamped", "use tags of the run: enqueue(canvas, tags={…})")
#: Options that no run can keep, whatever they are said of.
REFUSED: Refusals = {
    "link_error": ("has an error callback", "wait for the run's result, or pass enqueue a webhook, which is told"),
    "stamped_headers": _STAMP,
    "stamps": _STAMP,
    "chain": ("has steps that follow it as an option", "write chain(…)"),
}


def refuse(task: str, options: Mapping[str, Any], refused: Refusals) -> None:
    """Raise ``InvalidInput`` where one of these options is ``refused``."""
    for name, (what, fix) in refused.items():
        if name in options:
            raise InvalidInput(f"{task} {what} ({name}={shown(options[name])})", fix=fix)


def refuse_unknown(task: str, options: Iterable[str], known: frozenset[str]) -> None:
    """Raise ``InvalidInput`` for an option that is neither ``known`` nor of messages."""
    for name in options:
        if name not in known and name not in _OF_MESSAGES:
            raise InvalidInput(f"{task} has the option {name!r:.80}, which means nothing in a run", fix="leave it out")
