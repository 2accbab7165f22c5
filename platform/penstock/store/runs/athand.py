"""What a step is given, where that is short and known by the transaction that begins it: then its message carries it.

Everything else is put together from SQL when the step is claimed (``resolve``), and both come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from penstock.errors import NoValue
from penstock.pipelines.expression import Expression, parts_of, word_of
from penstock.pipelines.graph import Step, input_of
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import value_of, written

#: Longest text that travels, and that is looked at for it, bytes of JSON: with all else a message has at most 2 KiB.
MOST_BYTES, MOST_READ = 600, 4000
#: Most parts of an expression that is worked out while a run is held.
MOST_PARTS = 64

_THIS_ITEM = {"$item": 0}
#: What costs no more than its text is long, and never depends on what has failed.
_COPIES = (None, "$in", "$out", "$item", "$get", "$lit", "$object")


class AtHand:
    """Inputs of the calls of one step. ``texts`` are outputs by run and step, JSON, that are known without a look."""

    def __init__(self, run: OpenRun, step: Step, texts: Mapping[tuple[str, str], str]) -> None:
        self._step = step
        self._outputs: dict[str, Any] = {}
        self._inputs: Mapping[str, Any] | None = None
        needs = _needs(step.input)
        if needs is None:
            return
        inputs, outputs = needs
        if any((run.id, name) not in texts for name in outputs) or (inputs and len(run.given) > MOST_READ):
            return
        with suppress(NoValue):
            self._outputs = {name: value_of(texts[run.id, name]) for name in outputs}
            self._inputs = run.inputs if inputs else {}

    def given(self, around: str | None) -> str | None:
        """JSON text of what a call is given, whose maps are at ``around``; ``None`` where SQL has to say it."""
        if around is None or self._inputs is None or len(around) > MOST_READ:
            return None
        if self._step.input == _THIS_ITEM:
            text = around[1:-1]
        else:
            try:
                items = value_of(around)
                text = written(input_of(self._step, inputs=self._inputs, outputs=self._outputs, items=items))
            except NoValue:
                return None  # the claim says what is wrong with it
        return text if len(text.encode()) <= MOST_BYTES else None


def _needs(expression: Expression) -> tuple[bool, set[str]] | None:
    """Whether it names inputs, and the steps that it names; ``None`` for more than copies of them, and for constants
    that are too long to travel: they would be written for each element of a map.
    """
    inputs, outputs, count, waiting = False, set(), 0, [expression]
    constants = 0
    while waiting:
        here = waiting.pop()
        word = word_of(here)
        count += 1
        if word == "$lit":
            constants += len(written(here[word]))
        elif isinstance(here, str):
            constants += len(here)
        if count > MOST_PARTS or constants > MOST_BYTES or word not in _COPIES:
            return None
        if word == "$out":
            outputs.add(here[word])
        inputs = inputs or word == "$in"
        waiting += parts_of(here)
    return inputs, outputs
