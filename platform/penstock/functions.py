"""``@penstock.step``: a plain function as a step of pipelines, run by workers of a pool without devices.

It is a model like any other, whose items are the function's arguments by name: queues, retries, results and metrics
know nothing else.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock import usercode
from penstock.errors import ConfigError, InvalidInput
from penstock.model import Batching, Model, Resources, check_model
from penstock.tracing import StepOptions, Tracer, current, step_options
from penstock.using import Sendable, Sends

if TYPE_CHECKING:
    from typing import Unpack

    from penstock.options import CallOptions

#: Who serves functions: a worker that has no device to keep waiting.
POOL = "cpu"


class Function(Sendable):
    """A function that pipelines call as a step; called elsewhere, it is the function."""

    def __init__(
        self, function: Callable[..., Any], *, name: str, version: str | None, pool: str, timeout_s: float | None
    ):
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.version = Model.version if version is None else version
        self._signature = inspect.signature(function)
        for each in self._signature.parameters.values():
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY):
                raise ConfigError(
                    f"step {name!r} has an argument {str(each)!r} without a name of its own",
                    fix="name each of its arguments",
                )
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigError(f"step {name!r} is asynchronous or a generator", fix="write it as a plain function")
        #: What workers serve.
        self.model = self._make(version, pool, timeout_s)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs) if current() is None else self.using()(*args, **kwargs)

    def map(self, values: Any, item: Callable[[Any], Any] | None = None) -> Any:
        """In a pipeline's function, a call for each element of a list: the first argument, or those that ``item`` makes
        of it, by name."""
        return self.using().map(values, item)

    def using(self, **options: Unpack[CallOptions]) -> FunctionCall:
        """The same in a pipeline's function, with options of the step. Elsewhere with options as of ``Client.enqueue``,
        which its signatures carry, as ``Model.using``."""
        return FunctionCall(self, options)

    def item(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name; raises ``TypeError``."""
        try:
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"step {self.name!r}: {error}; its arguments: {self._signature}") from None

    def _make(self, version: str | None, pool: str, timeout_s: float | None) -> type[Model]:
        def predict(_: Model, batch: list[dict[str, Any]]) -> Sequence[Any]:
            return [self._answer(arguments) for arguments in batch]

        made = type(
            self.function.__name__,
            (Model,),
            {
                "name": self.name,
                **({} if version is None else {"version": version}),
                "batching": Batching(max_size=1),
                "resources": Resources(pool=pool),
                "timeout_s": timeout_s,
                "predict": predict,
                "of_function": self,
                "__doc__": self.function.__doc__,
                "__module__": self.function.__module__,
                "__qualname__": self.function.__qualname__,
            },
        )
        check_model(made)
        return made

    def _answer(self, arguments: Mapping[str, Any]) -> Any:
        try:
            return self.function(**self._read(arguments))
        except Exception as error:  # of this item alone
            return error

    def _read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as the hints say: a record where the function expects one, not the object that travelled."""
        try:
            bound = self._signature.bind(**arguments).arguments
        except TypeError as error:
            raise InvalidInput(f"step {self.name!r}: {error}", fix=f"its arguments: {self._signature}") from None
        adapters = self._adapters
        try:
            return {
                name: adapters[name].validate_python(value) if name in adapters else value
                for name, value in bound.items()
            }
        except ValueError as error:  # pydantic's ValidationError is one
            raise InvalidInput(f"an argument does not fit step {self.name!r}: {error}") from None

    @functools.cached_property
    def _adapters(self) -> Mapping[str, Any]:
        from pydantic import TypeAdapter

        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
            return {name: TypeAdapter(hint) for name, hint in hints.items() if name in self._signature.parameters}
        except BaseException as error:
            if not usercode.is_its_own(error):
                raise
            raise ConfigError(
                f"the arguments of step {self.name!r} cannot be validated: {usercode.told(error)}",
                fix="correct its hints",
            ) from error


class FunctionCall(Sends):
    """A function with options: in a pipeline's function those of a step, elsewhere those that signatures carry."""

    def __init__(self, function: Function, options: CallOptions) -> None:
        # Those of a step may be given where it is named, and called in a pipeline's function later.
        super().__init__(function.model, options, check=not options.keys() <= StepOptions.__annotations__.keys())
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        item = self._function.item(args, kwargs)
        options = step_options(self._options)
        return self._tracer().call(self._function.name, item, options, of=self._function)

    def map(self, values: Any, item: Callable[[Any], Any] | None = None) -> Any:
        """As ``Function.map``."""
        made = item or (lambda value: self._function.item((value,), {}))
        options = step_options(self._options)
        return self._tracer().each(self._function.name, values, made, options, of=self._function)

    def _tracer(self) -> Tracer:
        tracer = current()
        if tracer is None:
            raise TypeError(f"step {self._function.name!r} with options is called in the function of a pipeline")
        return tracer


@typing.overload
def step(function: Callable[..., Any], /) -> Function: ...
@typing.overload
def step(
    *, name: str | None = None, version: str | None = None, pool: str = POOL, timeout_s: float | None = None
) -> Callable[[Callable[..., Any]], Function]: ...
def step(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    version: str | None = None,
    pool: str = POOL,
    timeout_s: float | None = None,
) -> Function | Callable[[Callable[..., Any]], Function]:
    """Make a step of a plain function: ``@penstock.step``. Arguments and results are JSON, and what the hints make of
    it. ``pool`` are the workers that run it, ``timeout_s`` limits one attempt. Raises ``ConfigError``.
    """

    def wrap(function: Callable[..., Any]) -> Function:
        own = name or function.__name__
        return Function(function, name=own, version=version, pool=pool, timeout_s=timeout_s)

    return wrap if function is None else wrap(function)
