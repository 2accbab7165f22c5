"""A Celery canvas as a graph: what Celery would call, with what it would pass on. PURE.

Constants are the run's inputs, by the names of the steps that are given them, so that canvases of one shape are one
graph. The members of a group that call one model with arguments of one form are one ``map``, which can be as wide as
a list. Pipelines and functions are called by name (``named``). Plain Celery tasks are steps, too (``tasksteps``), where
somebody says how they are sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from penstock.arguments import shown
from penstock.codec import item_from_call
from penstock.errors import InvalidInput
from penstock.lane import full_name
from penstock.payload import constant
from penstock.pipelines.canvas.members import Member, check_whole, flat, member, no_links, spliced
from penstock.pipelines.canvas.modeloptions import Said, said_of
from penstock.pipelines.canvas.named import Arguments, Named, behind, later, step_of
from penstock.pipelines.canvas.signature import CHAIN, CHORD, CHUNKS, GROUP, MAP, MAPPED, Signature, read
from penstock.pipelines.canvas.taskoptions import Route
from penstock.pipelines.canvas.tasksteps import TaskCalls
from penstock.pipelines.expression import Expression, literal
from penstock.pipelines.graph import MAX_STEPS, Graph, Step, verify

#: What runs of canvases are called, where a pipeline has a name.
NAME = "canvas"

#: An item of a model as JSON has it.
Write = Callable[[str, Any], Any]
#: What is known of a name that is called with arguments by name; nothing of models, which take one item.
Find = Callable[[str], Named | None]


class Translated(NamedTuple):
    """A canvas as a graph, the inputs of its run, and what its signatures say of their jobs."""

    graph: Graph
    inputs: dict[str, Any]
    said: list[Said]


class _Made(NamedTuple):
    """A value; ``many`` where Celery has a result for each of its elements, and not one for all."""

    value: Expression
    many: bool = False


def translate(
    canvas: Any, *, namespace: str, write: Write | None = None, route: Route | None = None, find: Find | None = None
) -> Translated:
    """The graph of a signature. ``write`` checks what a model is given, where that is known already; ``find`` knows
    pipelines and functions; ``route`` says how the program would send a plain task, which is refused without.

    Raises ``InvalidInput`` for what a run cannot do, by name and with what does it.
    """
    walk = _Walk(namespace, write or (lambda model, item: constant(item)), route, find or (lambda name: None))
    try:
        made = walk.whole(read(canvas))
    except RecursionError:
        raise InvalidInput("the canvas is nested too deeply", fix="write chain(a, b, c) for a | (b | c)") from None
    graph = Graph(name=NAME, inputs=list(walk.inputs), steps=walk.steps, output=made)
    verify(graph)
    return Translated(graph, walk.inputs, walk.said)


class _Walk:
    """Writes down steps in the order in which Celery would come to them."""

    def __init__(self, namespace: str, write: Write, route: Route | None, find: Find) -> None:
        self.steps: list[Step] = []
        self.inputs: dict[str, Any] = {}
        self.said: list[Said] = []
        self._namespace = namespace
        self._write = write
        self._find = find
        self._names: set[str] = set()
        self._counts: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
        self._tasks = None if route is None else TaskCalls(namespace, route)

    def whole(self, canvas: Signature) -> Expression:
        """What the canvas gives."""
        if canvas.task == GROUP and len(only := flat(canvas, canvas.options)) == 1:
            check_whole(canvas)
            no_links(canvas, canvas.links)
            if (made := self._value(only[0], (), entry=True)) is not None:
                # Of one chain that ends in a group Celery gives the results of that group, and not a list of that list.
                return made.value if made.many else [made.value]
        made = self._value(member(canvas, {}), (), entry=True)
        if made is None:
            raise InvalidInput("an empty chain has no result", fix="put a model into it: chain(embed.s(text))")
        return made.value

    def _value(self, one: Member, given: Sequence[Expression], *, entry: bool) -> _Made | None:
        """What one signature gives after ``given``; nothing for an empty chain."""
        signature = one.signature
        if signature.task == CHAIN:
            made = self._chain(one, given, entry=entry)
        elif signature.task == GROUP:
            check_whole(signature)
            made = self._group(flat(signature, one.options), given, entry=entry)
        elif signature.task == CHORD:
            made = self._chord(one, given, entry=entry)
        elif signature.task in MAPPED:
            made = self._mapped(one, given, entry=entry)
        else:
            made = _Made(self._call(one, given, entry=entry))
        if made is None or made.many:
            no_links(signature, one.links)
            return made
        for link in one.links:
            self._value(member(link, {}), (made.value,), entry=False)
        return made

    def _chain(self, one: Member, given: Sequence[Expression], *, entry: bool) -> _Made | None:
        made: _Made | None = None
        for step in spliced(one.signature, one.options):
            made = self._value(step, given, entry=entry)
            given, entry = () if made is None else (made.value,), False
        return made

    def _chord(self, one: Member, given: Sequence[Expression], *, entry: bool) -> _Made:
        chord = one.signature
        check_whole(chord)
        own = [literal(constant(value)) for value in chord.args]
        passed = (*(() if chord.immutable else given), *own)
        header = self._group(flat(chord, one.options), passed, entry=entry)
        # A delay is that of the header, whatever else was said is that of the body.
        rest = {name: value for name, value in one.options.items() if name not in ("countdown", "eta", "expires")}
        body = self._value(
            member(read(chord.kwargs.get("body"), "a chord's body", chord.app), rest), (header.value,), entry=False
        )
        if body is None:
            raise InvalidInput("the body of a chord is an empty chain", fix="write group(…) where nothing follows it")
        return body

    def _group(self, members: Sequence[Member], given: Sequence[Expression], *, entry: bool) -> _Made:
        if alike(members, bool(given)) and self._sent_alike(members):
            return _Made(self._wide(members, given, entry=entry), many=True)
        made = [each for one in members if (each := self._value(one, given, entry=entry)) is not None]
        return _Made([each.value for each in made], many=True)

    def _wide(self, members: Sequence[Member], given: Sequence[Expression], *, entry: bool) -> Expression:
        """A group of calls of one model, or of one task."""
        if (tasks := self._of_tasks(members[0])) is not None:
            return self._task(tasks.wide(self._name(tasks.called(members[0])), members, given))
        signatures = [each.signature for each in members]
        if (named := self._named(members[0])) is not None:
            calls: list[Arguments] = [(each.args, each.kwargs) for each in signatures]
            return self._by_name(named, members, calls, given, entry=entry, maps=True)
        name, model = self._said(members, entry=entry)
        if signatures[0].immutable or not given:
            items = [self._write(model, item_from_call(each.args, each.kwargs)) for each in signatures]
            return self._step(name, model, items, {"$item": 0}, maps=True, after=given)
        own = [constant(each.args) for each in signatures]
        rest: list[Expression] = [{"$get": [{"$item": 0}, place]} for place in range(len(own[0]))]
        return self._step(name, model, own, [*given, *rest], maps=True)

    def _mapped(self, one: Member, given: Sequence[Expression], *, entry: bool) -> _Made:
        """``map``, ``starmap`` and ``chunks``, which Celery passes nothing on to."""
        task, mapped = one.signature.task, one.signature.kwargs
        inner = read(mapped.get("task"), f"the task of {task}", one.signature.app)
        inner = inner._replace(options=inner.options | dict(one.options))
        calls = list(mapped.get("it") or ())
        if task != MAP and (wrong := [each for each in calls if not isinstance(each, list | tuple)]):
            raise InvalidInput(f"{task} is given {shown(wrong[0])}", fix="give it lists of arguments: [(x,), (y,)]")
        called, tasks = member(inner, {}), self._of_tasks(member(inner, {}))
        named = self._named(called)
        as_given = task == MAP or tasks is not None or named is not None
        items = calls if as_given else [item_from_call(each, {}) for each in calls]
        size = mapped.get("n") if task == CHUNKS else max(1, len(items))
        if type(size) is not int or size < 1:
            raise InvalidInput(f"chunks of {shown(size)} items", fix="give a whole number, one or more")
        made: list[Expression] = []
        for start in range(0, len(items) if task == CHUNKS else 1, size):
            part = items[start : start + size]
            if tasks is not None:
                args = [[item] for item in part] if task == MAP else part
                made.append(self._task(tasks.mapped(self._name(tasks.called(called)), called, args, given)))
                continue
            if named is not None:
                bound: list[Arguments] = [([item] if task == MAP else item, {}) for item in part]
                alone = called._replace(signature=inner._replace(immutable=True))
                made.append(self._by_name(named, [alone], bound, given, entry=entry, maps=True))
                continue
            name, model = self._said([called], entry=entry)
            part = [self._write(model, item) for item in part]
            made.append(self._step(name, model, part, {"$item": 0}, maps=True, after=given))
        return _Made(made, many=True) if task == CHUNKS else _Made(made[0])

    def _call(self, one: Member, given: Sequence[Expression], *, entry: bool) -> Expression:
        signature = one.signature
        if (tasks := self._of_tasks(one)) is not None:
            return self._task(tasks.call(self._name(tasks.called(one)), one, given))
        if (named := self._named(one)) is not None:
            calls: list[Arguments] = [(signature.args, signature.kwargs)]
            return self._by_name(named, [one], calls, given, entry=entry, maps=False)
        name, model = self._said([one], entry=entry)
        if signature.immutable or not given:
            item = self._write(model, item_from_call(signature.args, signature.kwargs))
            return self._step(name, model, item, {"$in": name}, after=given)
        if signature.kwargs:
            raise InvalidInput(
                f"step {name!r} is given the result before it, and {', '.join(signature.kwargs)} by name: a model"
                " takes one item",
                fix="pass it by position, or use .si(), which ignores the result before it",
            )
        own = constant(signature.args)
        rest: list[Expression] = [{"$get": [{"$in": name}, place]} for place in range(len(own))]
        together = [*given, *rest]
        return self._step(name, model, own or None, together if len(together) > 1 else together[0])

    def _step(
        self,
        name: str,
        model: str,
        own: Any,
        item: Expression,
        *,
        maps: bool = False,
        after: Sequence[Expression] = (),
    ) -> Expression:
        if maps or own is not None or item == {"$in": name}:
            self.inputs[name] = own
        over: Expression = {"$in": name} if maps else None
        # Models may run beside what they are not given; what plain tasks do may be what somebody waits for.
        if after and self._tasks is not None and self._tasks.any:
            over, item = (later(over, after), item) if maps else (over, later(item, after))
        return self._add(Step(name=name, model=model, input=item, over=over, maps=maps))

    def _by_name(
        self,
        named: Named,
        members: Sequence[Member],
        calls: Sequence[Arguments],
        given: Sequence[Expression],
        *,
        entry: bool,
        maps: bool,
    ) -> Expression:
        """A step that makes these calls of a pipeline or a function."""
        name, model = self._said(members, entry=entry, pipeline=named.graph is not None)
        after, passed = (given, ()) if members[0].signature.immutable else ((), given)
        step, own = step_of(name, model, named, calls, passed=passed, write=self._write, maps=maps)
        if own is not None:
            self.inputs[name] = own
        if after and self._tasks is not None and self._tasks.any:
            step = behind(step, after)
        return self._add(step)

    def _named(self, one: Member) -> Named | None:
        return self._find(one.signature.task.rpartition(".")[2]) if self._is_model(one) else None

    def _is_model(self, one: Member) -> bool:
        return is_model(one.signature.task, self._namespace)

    def _task(self, made: tuple[Step, Any]) -> Expression:
        step, own = made
        if own is not None:
            self.inputs[step.name] = own
        return self._add(step)

    def _add(self, step: Step) -> Expression:
        if len(self.steps) >= MAX_STEPS:
            raise InvalidInput(
                f"the canvas has more than {MAX_STEPS:,} steps",
                fix="group calls of one model, which are one step however many they are",
            )
        self.steps.append(step)
        return {"$out": step.name}

    def _of_tasks(self, one: Member) -> TaskCalls | None:
        """Who makes steps of it, if it calls a plain task and those may be called."""
        return None if self._tasks is None or self._is_model(one) else self._tasks

    def _sent_alike(self, members: Sequence[Member]) -> bool:
        tasks = self._of_tasks(members[0])
        return tasks is None or tasks.alike(members)

    def _said(self, calls: Sequence[Member], *, entry: bool, pipeline: bool = False) -> tuple[str, str]:
        """Name and model of the step that makes these calls of one model, or pipeline."""
        model = model_of(calls[0].signature.task, self._namespace)
        name = self._name(model)
        said = [
            said_of(name, model, each.options, namespace=self._namespace, entry=entry, pipeline=pipeline)
            for each in calls
        ]
        self.said += said
        return name, full_name(model, said[0].version)

    def _name(self, model: str) -> str:
        """``embed``, then ``embed-2``; names of steps begin with no digit."""
        base = f"_{model}" if model[0].isdigit() else model
        name = next(name for n in self._counts[base] if (name := base if n == 1 else f"{base}-{n}") not in self._names)
        self._names.add(name)
        return name


def is_model(task: str, namespace: str) -> bool:
    """Whether this is the name of a model's task, by its form."""
    head, dot, model = task.rpartition(".")
    return head == namespace and bool(dot and model)


def model_of(task: str, namespace: str) -> str:
    """The model that a task's name is of; raises ``InvalidInput`` for plain tasks."""
    if not is_model(task, namespace):
        raise InvalidInput(
            f"{task!r:.150} is a plain Celery task: runs call models, which are {namespace}.NAME here",
            fix="send the canvas through Celery, canvas.apply_async(), or make a model of the task",
        )
    return task.rpartition(".")[2]


def alike(members: Sequence[Member], passed: bool) -> bool:
    """Whether calls are of one model with arguments of one form, so that one ``map`` makes them."""
    if len(members) < 2:
        return False

    def form(one: Member) -> tuple[Any, ...]:
        signature, options, _ = one
        return signature.task, options.get("queue"), signature.immutable, len(signature.args), tuple(signature.kwargs)

    first = members[0].signature
    if first.task.startswith("celery.") or (passed and not first.immutable and (first.kwargs or not first.args)):
        return False
    return all(not each.links and form(each) == form(members[0]) for each in members)
