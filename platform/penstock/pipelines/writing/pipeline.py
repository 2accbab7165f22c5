"""``@penstock.pipeline``: a Python function whose calls of models become a graph that is run durably."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from msgspec.structs import replace

from penstock import usercode
from penstock.calltypes import inputs_of, schemas_of
from penstock.errors import ConfigError, InvalidInput
from penstock.jsontext import loads
from penstock.options import Options
from penstock.payload import write_input
from penstock.pipelines.canvas.series import canvas_of
from penstock.pipelines.graph import Graph, check_bounds
from penstock.pipelines.inputs import by_name, missing_input
from penstock.pipelines.shapes.connected import Called, fault
from penstock.pipelines.shapes.shape import read
from penstock.pipelines.writing.trace import Tracer, trace
from penstock.tracing import current
from penstock.using import Sendable, Sends

if TYPE_CHECKING:
    from celery.canvas import Signature
    from pydantic import TypeAdapter

#: What queues and urls may be called, and so models: a run is listed among their jobs.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Pipeline(Sendable):
    """A traced function. Inside another pipeline a call of it adds its steps there."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        max_parallel: int | None = None,
        budget: float | None = None,
    ) -> None:
        where = f"{function.__module__}.{function.__qualname__}"
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"pipeline {where} is named {name!r}",
                fix='name it with lower-case letters, digits, "-" or "_": @penstock.pipeline(name="answer")',
            )
        functools.update_wrapper(self, function)
        self.name = name
        self.function = function
        #: Traced once, when it is defined: what is wrong with it is told where it is written.
        check_bounds(f"pipeline {name!r}", max_parallel, budget)
        tracer = Tracer()
        traced = trace(function, name=name, tracer=tracer)
        self.graph: Graph = replace(traced, max_parallel=max_parallel, budget=budget)
        #: What its steps call, by the names that they do: a pipeline that maps this one is checked by it, too.
        self.called = tracer.called
        _check_types(self, tracer)
        #: The graph's JSON, as it is stored with a run.
        self.text = self.graph.to_json().decode()

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r}: {len(self.graph.steps)} steps>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is None:
            raise TypeError(
                f"pipeline {self.name!r} is run by workers: client.run({self.name}, {{…}}), or"
                f" penstock.testing.run_pipeline({self.name}, …) in this process"
            )
        return self.function(*args, **kwargs)

    def map(self, values: Any, item: Callable[[Any], Any] | None = None, *, max_parallel: int | None = None) -> Any:
        """In another pipeline's function, a run of this one for each element of a list that is known only then; the
        list of outputs. It is given the element as its first input, or what ``item`` makes of it: a dict has its inputs
        by name.

        No run of these waits for another one, but that at most ``max_parallel`` are in flight. What they spend is the
        other pipeline's; its budget counts. Raises ``ConfigError`` where inputs are missing or unknown.
        """
        tracer = current()
        if not isinstance(tracer, Tracer):
            raise TypeError(
                f"pipeline {self.name!r} is mapped in the function of another pipeline: {self.name}.map(values)"
            )
        tracer.called.update(self.called)
        graph = replace(self.graph, budget=None)
        return tracer.runs(graph, values, lambda value: self._inputs_of(value, item), max_parallel)

    def _inputs_of(self, value: Any, item: Callable[[Any], Any] | None) -> dict[str, Any]:
        signature = inspect.signature(self.function)
        given = value if item is None else item(value)
        try:
            bound = signature.bind(**given) if isinstance(given, Mapping) else signature.bind(given)
        except TypeError as error:
            names = ", ".join(f"{name!r}: …" for name in self.graph.inputs)
            raise ConfigError(
                f"pipeline {self.name!r} is mapped: {error}",
                fix=f"write {self.name}.map(values, lambda value: {{{names}}})",
            ) from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def describe(self) -> str:
        """The first line of the docstring, or an empty text."""
        doc = inspect.cleandoc(self.function.__doc__ or "")
        return doc.splitlines()[0] if doc else ""

    def using(self, **options: Unpack[Options]) -> Sends:
        """This pipeline with options as of ``Client.enqueue``, which its signatures carry, as ``Model.using``."""
        if current() is not None:
            raise TypeError(f"pipeline {self.name!r} is called in the function of another one, whose options count")
        return Sends(self, options)

    def canvas(self, **inputs: Any) -> Signature:
        """The Celery canvas that gives what a run with these inputs gives, of signatures as of ``Model.s`` and ``.si``.

        Raises ``ConfigError`` that names what a canvas has no words for: a condition, a computation, ways that part and
        do not meet; or as ``Client.enqueue`` for the inputs.
        """
        from penstock.signatures import signature_of

        given = loads(self.encode(inputs, sys.maxsize))
        return signature_of(canvas_of(self.graph, given))

    def encode(self, inputs: Any, max_bytes: int) -> str:
        """The inputs of a run as JSON text, by name, with the function's defaults; raises ``InvalidInput``,
        ``NotSerializable`` or ``TooLarge``.
        """
        given = by_name(self.name, self.graph.inputs, inputs)
        defaults, values = self.defaults, {}
        for name in self.graph.inputs:
            if name not in given and name not in defaults:
                raise missing_input(self.name, name)
            values[name] = given[name] if name in given else defaults[name]
            self.check(name, values[name])
        return write_input(self.name, values, codec=None, max_bytes=max_bytes)

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Of the inputs that may be left out."""
        parameters = inspect.signature(self.function).parameters.items()
        return {name: each.default for name, each in parameters if each.default is not each.empty}

    def check(self, name: str, value: Any) -> None:
        """Raise ``InvalidInput`` for what can not be this input."""
        adapter = self.adapters.get(name)
        if adapter is None:
            return
        try:
            adapter.validate_python(value)
        except ValueError as error:  # pydantic's ValidationError is one
            faults = "; ".join(each["msg"] for each in error.errors()[:3]) if hasattr(error, "errors") else str(error)
            raise InvalidInput(
                f"the input {name!r} does not fit pipeline {self.name!r}: {faults}",
                fix=f"`penstock pipeline show {self.name}` prints its inputs",
            ) from None

    @functools.cached_property
    def adapters(self) -> Mapping[str, TypeAdapter[Any]]:
        """Pydantic's, of the inputs that have a hint; raises ``ConfigError`` for hints that it cannot use."""
        from pydantic import TypeAdapter

        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
            return {name: TypeAdapter(hint) for name, hint in hints.items() if name in self.graph.inputs}
        except BaseException as error:
            if not usercode.is_its_own(error):
                raise
            raise ConfigError(
                f"the inputs of pipeline {self.name!r} cannot be validated: {usercode.told(error)}",
                fix="correct its hints",
            ) from error


def _check_types(pipeline: Pipeline, tracer: Tracer) -> None:
    """Raise ``ConfigError`` for a step that can never take what it is given."""
    schemas = {name: schemas_of(called) for name, called in tracer.called.items()}
    models = {name: Called(read(each.takes), read(each.gives)) for name, each in schemas.items()}
    inputs = {name: read(schema) for name, schema in inputs_of(pipeline.function).items()}
    if (found := fault(pipeline.graph, models, inputs)) is not None:
        raise ConfigError(
            f"pipeline {pipeline.name!r} can never work: {found}",
            fix="correct the call, or the hints of what steps take and give, or put a step between them",
        )


@typing.overload
def pipeline(function: Callable[..., Any], /) -> Pipeline: ...
@typing.overload
def pipeline(
    *, name: str | None = None, max_parallel: int | None = None, budget: float | None = None
) -> Callable[[Callable[..., Any]], Pipeline]: ...
def pipeline(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    max_parallel: int | None = None,
    budget: float | None = None,
) -> Pipeline | Callable[[Callable[..., Any]], Pipeline]:
    """Make a pipeline of a function that calls models: ``@penstock.pipeline``, or with a ``name`` of its own.

    It is called once, now, with values that are not known yet: what depends on them is written with operators,
    ``penstock.when`` and ``model.map``. Raises ``ConfigError``, or ``TypeError`` where the function needs a value.

    ``max_parallel`` is how many steps of a run are in flight at most, ``budget`` how many device seconds they may take,
    unless the run's submission says others; raises ``InvalidInput`` for what is no such bound. Where another pipeline
    calls this one, that one's count.
    """
    if function is None:
        return lambda function: Pipeline(function, name or function.__name__, max_parallel=max_parallel, budget=budget)
    return Pipeline(function, function.__name__)
