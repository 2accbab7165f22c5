"""A pipeline as data: steps, what each is given in terms of inputs and other steps, and what comes out.

A graph has no order but that of its values: a step can start when what it is given is known, whatever else runs. It is
JSON, so that it can be stored by its digest, and a run goes on with the graph that it began with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal

import msgspec

from penstock.arguments import shown
from penstock.errors import InvalidInput, NoValue
from penstock.pipelines.effort import Effort
from penstock.pipelines.expression import Checked, Expression, check, evaluate, kind_of, named, word_of
from penstock.pipelines.task import Task, check_task

#: The form of graphs that this release writes and reads.
FORM = 1
#: Most steps of one graph, those of graphs in it included; what is wider is a ``map``, of which a graph has one step.
MAX_STEPS = 2_000
#: Most graphs around one.
MAX_NESTED = 8
#: Most parts of all expressions of one graph, those of graphs in it included; of its own, those in choices.
MAX_PARTS, MAX_DECIDING = 100_000, 40_000

#: Longest name of a model with its version, characters.
MAX_MODEL = 256
#: Longest timeout of a step, seconds, and most tries after the first.
MAX_TIMEOUT_S, MAX_RETRY = 100 * 365.25 * 86400, 100
#: Largest bound on what is in flight at a time: so many jobs begin in one transaction.
MAX_PARALLEL = 1_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_encode = msgspec.json.Encoder(order="deterministic").encode


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One call of a model (``embed``, ``embed@2``), or of a function with ``@penstock.step``, which is one.

    With ``over``, a list, it is called for each of its elements, which ``input`` says as ``{"$item": 0}``; its output
    is the list of their outputs, in the order of the elements.
    """

    name: str
    input: Expression
    model: str = ""
    #: ``wait`` for a signal, whose value is the output; ``sleep`` for so many seconds, ``input``'s first element;
    #: ``pick`` what ``input`` is when it is known, and keep to it; ``run`` a graph of its own, whose inputs are those
    #: of ``input``, by name. None of them takes a worker. ``task`` calls a plain Celery task, which is run by a worker
    #: of another program.
    kind: Literal["call", "wait", "sleep", "pick", "run", "task"] = "call"
    signal: str = ""
    graph: Graph | None = None
    task: Task | None = None
    over: Expression = None
    maps: bool = False
    #: Limit on one attempt, or on the wait, seconds; ``None``: the model's own, or none.
    timeout: float | None = None
    #: How often it is tried again when it has failed for good; of a map, each element.
    retry: int = 0
    #: Whether the version in ``model`` is what was served when the run began, and nobody's wish: see ``pins``.
    pinned: bool = False
    #: Of a map: most elements in flight at a time; ``None``: all of them.
    max_parallel: int | None = None

    @property
    def expressions(self) -> Sequence[Expression]:
        """All that it has to know before it can start."""
        return (self.over, self.input) if self.maps else (self.input,)


def _form() -> int:
    return FORM


class Graph(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Steps by name, and the output's expression. ``inputs`` are the names that a run is given.

    ``max_parallel`` and ``budget`` are a run's unless its submission says others: most steps in flight at a time, and
    device seconds that they may take.
    """

    name: str
    inputs: list[str]
    steps: list[Step]
    output: Expression
    #: Written always: made by a function, it is no default that is left out.
    form: int = msgspec.field(default_factory=_form)
    max_parallel: int | None = None
    budget: float | None = None

    def to_json(self) -> bytes:
        """The text that is stored; equal graphs have equal texts."""
        return _encode(self)

    @property
    def digest(self) -> str:
        """What the graph is stored by."""
        return sha256(self.to_json()).hexdigest()

    def step(self, name: str) -> Step:
        """The step of this name."""
        return next(step for step in self.steps if step.name == name)


def read(text: bytes | str) -> Graph:
    """A graph of its JSON text, checked; raises ``InvalidInput``."""
    graph = decoded(text)
    verify(graph)
    return graph


def decoded(text: bytes | str) -> Graph:
    """The same for one that has been checked: as it is stored."""
    try:
        return msgspec.json.decode(text, type=Graph)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"this is no graph: {error}", fix="see `penstock pipeline show --schema`") from None


def verify(graph: Graph, *, depth: int = 0) -> int:
    """How many parts its expressions have; raises ``InvalidInput`` for a graph that no run could finish: unknown names,
    circles, too many steps.

    ``depth`` is how many graphs are around it.
    """
    if graph.form != FORM:
        raise InvalidInput(f"graphs of form {graph.form} are not read by this release", fix=f"write form {FORM}")
    if depth > MAX_NESTED:
        raise InvalidInput(f"there are more than {MAX_NESTED} graphs around one", fix="call its steps where it is")
    if (count := _count(graph)) > MAX_STEPS:
        raise InvalidInput(f"{count:,} steps are too many", fix=f"use at most {MAX_STEPS:,}, and map lists")
    check_bounds(f"pipeline {graph.name!r:.80}", graph.max_parallel, graph.budget)
    _names("pipeline", [graph.name])
    _names("input", graph.inputs)
    _names("step", [step.name for step in graph.steps])
    known = {"$in": set(graph.inputs), "$out": {step.name for step in graph.steps}}
    above: dict[str, list[str]] = {}
    parts = deciding = 0
    for step in graph.steps:
        _check_options(step)
        if step.graph is not None:
            parts += _check_nested(step, step.graph, depth)
        where = f"step {step.name!r}"
        names: list[str] = []
        for expression in step.expressions:
            items = 1 if step.maps and expression is step.input else 0
            found = _check(where, expression, known, items=items, picks=step.kind == "pick")
            names += found.given("$out")
            parts += found.parts
            deciding += found.parts if found.chooses else 0
        above[step.name] = names
    found = _check("the output", graph.output, known, items=0, picks=False)
    _bound(parts + found.parts, deciding + (found.parts if found.chooses else 0))
    if circle := _circle(above):
        raise InvalidInput(f"these steps wait for each other: {' -> '.join(circle)}", fix="take one of the arrows out")
    return parts + found.parts


def _bound(parts: int, deciding: int) -> None:
    """What is looked at whenever a step ends: a graph is decided on while nobody else can write."""
    if parts > MAX_PARTS or deciding > MAX_DECIDING:
        raise InvalidInput(
            f"the graph's expressions have {parts:,} parts, {deciding:,} of them in choices; the limits are"
            f" {MAX_PARTS:,} and {MAX_DECIDING:,}",
            fix="map lists instead of writing a step for each element, and compute long conditions once, in a step",
        )


def _check_options(step: Step) -> None:
    if step.kind == "call":
        if not step.model or len(step.model) > MAX_MODEL or not step.model.isprintable():
            raise InvalidInput(f"step {step.name!r} calls {step.model!r:.80}, which is no model", fix="name a model")
    elif step.kind == "run":
        if step.graph is None or step.model or step.retry or step.timeout is not None:
            raise InvalidInput(
                f"step {step.name!r} is a run: it has a graph, and what is retried or limited is in that",
                fix="give it a graph, and leave model, retry and timeout out",
            )
    elif step.kind == "task":
        check_task(step.name, step.task)
        if step.model or step.retry:
            raise InvalidInput(
                f"step {step.name!r} is a plain task, which has no model and no retry here",
                fix="leave them out; Celery tries a task again that asks for it (autoretry_for, self.retry)",
            )
    elif step.model or step.maps or step.retry:
        raise InvalidInput(
            f"step {step.name!r} is a {step.kind}, and calls nothing", fix="leave model, maps and retry out"
        )
    if step.graph is not None and step.kind != "run":
        raise InvalidInput(f"step {step.name!r} is a {step.kind} and has a graph", fix='write "kind": "run"')
    if step.task is not None and step.kind != "task":
        raise InvalidInput(f"step {step.name!r} is a {step.kind}, and has a task", fix='give it "kind": "task"')
    if step.max_parallel is not None and not step.maps:
        raise InvalidInput(
            f"step {step.name!r} has max_parallel={step.max_parallel!r:.40}, and is one call",
            fix="give it to a map, embed.using(max_parallel=8).map(values), or to the pipeline",
        )
    check_bounds(f"step {step.name!r}", step.max_parallel, None)
    if not (_NAME.fullmatch(step.signal) if step.kind == "wait" else step.signal == ""):
        raise InvalidInput(f"step {step.name!r} has signal={step.signal!r:.80}", fix="name what a wait waits for")
    if step.kind == "sleep" and not (isinstance(step.input, list) and step.input):
        raise InvalidInput(f"step {step.name!r} sleeps for no time", fix="give input as a list: seconds first")
    # A number of another type is read back as no graph: by who goes on with the run, not by who wrote it.
    if step.timeout is not None and not (type(step.timeout) in (int, float) and 0 < step.timeout <= MAX_TIMEOUT_S):
        raise InvalidInput(f"step {step.name!r} has timeout={step.timeout!r}", fix="give seconds, more than 0")
    if type(step.retry) is not int or not 0 <= step.retry <= MAX_RETRY:
        raise InvalidInput(
            f"step {step.name!r} has retry={step.retry!r}", fix=f"use a whole number from 0 to {MAX_RETRY}"
        )


def _check_nested(step: Step, graph: Graph, depth: int) -> int:
    try:
        parts = verify(graph, depth=depth + 1)
    except InvalidInput as error:
        raise InvalidInput(f"in step {step.name!r}: {error.message}", fix=error.fix) from None
    if graph.budget is not None:
        raise InvalidInput(
            f"step {step.name!r} has a graph with a budget of its own", fix="give it to the graph around, which spends"
        )
    if not isinstance(step.input, dict) or word_of(step.input) is not None or step.input.keys() != set(graph.inputs):
        there = ", ".join(graph.inputs[:20]) or "none"
        raise InvalidInput(
            f"step {step.name!r} does not give its graph the inputs that it has", fix=f"give an object with: {there}"
        )
    return parts


def _count(graph: Graph) -> int:
    """Steps, those of graphs in it included."""
    count, waiting = 0, [graph]
    while waiting and count <= MAX_STEPS:
        here = waiting.pop()
        count += len(here.steps)
        waiting += [step.graph for step in here.steps if step.graph is not None]
    return count


def check_bounds(where: str, max_parallel: Any, budget: Any) -> None:
    """Raise ``InvalidInput`` for bounds that are none."""
    if max_parallel is not None and not (type(max_parallel) is int and 1 <= max_parallel <= MAX_PARALLEL):
        raise InvalidInput(
            f"{where} has max_parallel={shown(max_parallel)}",
            fix=f"use a whole number from 1 to {MAX_PARALLEL:,}, or leave it out",
        )
    if budget is not None and not (type(budget) in (int, float) and 0 <= budget <= MAX_TIMEOUT_S):
        raise InvalidInput(f"{where} has budget={shown(budget)}", fix="give device seconds, 0 or more, or leave it out")


def check_sleep(step: Step) -> None:
    """Raise ``InvalidInput`` where it is said now that a step sleeps for what is no time. Of what is computed, and of a
    graph that is stored, nothing but a time that has passed is made."""
    seconds = step.input[0]
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_TIMEOUT_S:
        raise InvalidInput(
            f"step {step.name!r} sleeps for {shown(seconds)}", fix=f"give seconds, from 0 to {MAX_TIMEOUT_S:,.0f}"
        )


def _names(what: str, given: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in given:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r:.150} is no name of {'an' if what == 'input' else 'a'} {what}",
                fix="use letters (a to z, A to Z), digits, '_', '-' and '.', and begin with a letter or '_'",
            )
        if name in seen:
            raise InvalidInput(f"two {what}s are called {name!r}", fix="give each a name of its own")
        seen.add(name)


def _check(where: str, expression: Expression, known: Mapping[str, set[str]], *, items: int, picks: bool) -> Checked:
    try:
        found = check(expression)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", fix=error.fix) from None
    for word, names in known.items():
        for name in found.given(word):
            if name not in names:
                there = ", ".join(sorted(names)[:20]) or "none"
                raise InvalidInput(f"{where} names {name!r:.150}, which is not there", fix=f"there are: {there}")
    if any(level >= items for level in found.given("$item")):
        raise InvalidInput(f"{where} names an item outside of a map", fix="give the step a list as `over`")
    # What is first when it is asked may not be when it is asked again: a step of its own keeps it.
    if not picks and found.given("$first"):
        raise InvalidInput(f"{where} takes the first of some values", fix='make a step of it: {"kind": "pick", …}')
    return found


def parents(step: Step) -> list[str]:
    """The steps that may have to end before this one: all that are named, in branches that may not be chosen too."""
    return list(dict.fromkeys(name for each in step.expressions for name in named(each, "$out")))


def unnamed(graph: Graph) -> list[str]:
    """The steps whose outputs nobody uses: they are called for what they do, as in any function."""
    used = {name for step in graph.steps for name in parents(step)} | set(named(graph.output, "$out"))
    return [step.name for step in graph.steps if step.name not in used]


def _circle(given: Mapping[str, Sequence[str]]) -> list[str]:
    """A circle, the first name once more at its end; empty where there is none. ``given`` are parents by step."""
    above = {name: set(names) for name, names in given.items()}
    for name in ordered(given):
        del above[name]
    if not above:
        return []
    trail = [min(above)]  # every one that is left waits for another one that is left
    while True:
        following = min(name for name in above[trail[-1]] if name in above)
        if following in trail:
            return [*trail[trail.index(following) :], following]
        trail.append(following)


def in_order(graph: Graph) -> list[str]:
    """The steps, each behind its parents, as far as there is such an order."""
    return ordered({step.name: parents(step) for step in graph.steps})


def ordered(given: Mapping[str, Sequence[str]]) -> list[str]:
    """The same of steps whose parents are ``given`` (Kahn, 1962)."""
    above = {name: set(names) for name, names in given.items()}
    below: dict[str, list[str]] = {name: [] for name in above}
    for name, names in above.items():
        for parent in names:
            below[parent].append(name)
    order = []
    waiting = [name for name, names in above.items() if not names]
    while waiting:
        name = waiting.pop()
        order.append(name)
        for child in below[name]:
            above[child].discard(name)
            if not above[child]:
                waiting.append(child)
    return order


def items_of(
    step: Step, *, inputs: Mapping[str, Any], outputs: Mapping[str, Any], effort: Effort | None = None
) -> list[Any]:
    """What a map is called for, one by one; of any other step a list with one element, which nobody names.

    Raises ``NoValue`` for what is no list: a text has letters, which nobody means to map; else as ``evaluate``.
    """
    if not step.maps:
        return [None]
    values = evaluate(step.over, inputs=inputs, outputs=outputs, effort=effort)
    if not isinstance(values, list):
        raise NoValue(f"step {step.name!r} maps {kind_of(values)}, which is no list")
    return values


def input_of(
    step: Step,
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    items: Sequence[Any] = (),
    effort: Effort | None = None,
) -> Any:
    """What the step, or one of its calls, is given."""
    return evaluate(step.input, inputs=inputs, outputs=outputs, items=items, effort=effort)
