"""What a pipeline's function says besides calls: choices, what stands in for what fails, waits, races, rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.errors import ConfigError
from penstock.pipelines.writing.trace import Tracer
from penstock.pipelines.writing.traced import Traced, expression_of
from penstock.tracing import current

#: Most rounds of ``refine``: each is a choice inside the one before, and leaves room for what ``until`` says.
MAX_ROUNDS = 50


def when(condition: Any, one: Any, other: Any = None) -> Any:
    """``one`` where the condition holds, else ``other``; steps that only the other one needs never start.

    The condition is true or false: ``judge(draft) > 0.5``, with ``&``, ``|`` and ``~`` for *and*, *or* and *not*.
    """
    if not isinstance(condition, Traced):
        return one if condition else other
    return Traced({"$if": [expression_of(condition), expression_of(one), expression_of(other)]})


def fallback(first: Any, *others: Any) -> Any:
    """The first of these values whose steps do not fail: ``fallback(best(x), quick(x))``.

    What stands in starts only when what it stands in for has failed, and for good: after its own ``retry``.
    """
    if not others:
        return first
    return Traced({"$else": [expression_of(first), expression_of(fallback(*others))]})


def wait_for(signal: str, *, timeout: float | None = None, after: Any = None) -> Any:
    """The value of a signal: what ``client.signal(run, signal, value)`` says, a person's decision for example.

    The run waits for it without a worker, from when ``after`` is known (the draft that is to be approved), or from its
    beginning; a signal that came before is kept. Fails after ``timeout`` seconds, which ``fallback`` may stand in for.
    """
    if not isinstance(signal, str):
        raise TypeError(f"wait_for is given {signal!r:.80} as the name of a signal: name it by a text")
    return _tracer("wait_for").wait(signal, timeout, after)


def sleep(seconds: Any, *, after: Any = None) -> Any:
    """Nothing, ``seconds`` after ``after`` is known, or after the run's beginning. No worker waits with it."""
    return _tracer("sleep").sleep(seconds, after)


def race(*values: Any) -> Any:
    """The first of these values that is there; steps that only the others need are cancelled. It fails when all do."""
    return _pick("race", values, 1, single=True)


def quorum(count: int, *values: Any) -> Any:
    """The list of the first ``count`` of these values, in the order in which they stand here; as ``race``."""
    return _pick("quorum", values, count, single=False)


def refine(
    make: Callable[[Any, Any], Any],
    judge: Callable[[Any], Any],
    *,
    until: Callable[[Any], Any],
    max_rounds: int = 4,
) -> Any:
    """A draft that is made and judged until it is good enough, or ``max_rounds`` times.

    ``make(draft, verdict)`` makes the next draft of the last one and what was said of it, the first one of ``None`` and
    ``None``; ``judge(draft)`` says what it is worth, and ``until(verdict)`` whether that is enough. The last round's
    draft is taken as it is.
    """
    if isinstance(max_rounds, bool) or not isinstance(max_rounds, int) or not 1 <= max_rounds <= MAX_ROUNDS:
        raise ConfigError(f"refine(max_rounds={max_rounds!r})", fix=f"use a whole number from 1 to {MAX_ROUNDS}")
    rounds = []
    draft = make(None, None)
    for _ in range(max_rounds - 1):
        verdict = judge(draft)
        rounds.append((until(verdict), draft))
        draft = make(draft, verdict)
    for enough, earlier in reversed(rounds):
        draft = when(enough, earlier, draft)
    return draft


def _pick(name: str, values: tuple[Any, ...], count: int, *, single: bool) -> Any:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(values):
        raise ConfigError(
            f"{name} of {count!r} of {len(values)} values", fix="use a whole number from 1 to as many as there are"
        )
    return _tracer(name).pick(name, values, count, single=single)


def _tracer(what: str) -> Tracer:
    tracer = current()
    if not isinstance(tracer, Tracer):
        raise TypeError(f"penstock.{what} is called in the function of a pipeline")
    return tracer
