"""The model API: what a user writes, without torch, celery or a queue in sight.

A model is a class with ``load`` (once per worker) and ``predict`` (one batch in, one result per item out). The item
type in ``predict``'s hints is the contract with producers: inputs are validated against it, and its JSON schema is
what ``penstock model show`` prints.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

from penstock.codec import hint_of, item_from_call, item_of, refuse_bytes
from penstock.errors import ConfigError
from penstock.lane import Lane
from penstock.tracing import current
from penstock.using import Using

if typing.TYPE_CHECKING:
    from typing import Self, Unpack

    from celery.canvas import Signature

    from penstock.options import CallOptions


log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
#: Longest version, characters.
MAX_VERSION = 128
#: More memory than any device has: an exbibyte.
_MOST_BYTES = 2**60
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How items may be batched.

    ``max_size`` bounds the items of a batch. ``cost`` gives the cost of one item in the unit that the model's time
    and memory follow (tokens, pixels; default 1 per item) and ``max_cost`` bounds its sum over a batch; an item
    that alone costs more runs alone. ``max_wait_s`` pins how long an incomplete batch may wait for more; the
    default leaves it to the policy. Items whose ``key`` differs (image size, sampling parameters) never share a batch.
    """

    max_size: int = 32
    cost: Callable[[Any], float] | None = None
    max_cost: float | None = None
    max_wait_s: float | None = None
    key: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        if self.max_size < 1:
            raise ConfigError(f"Batching(max_size={self.max_size})", fix="use a max_size of at least 1")
        if self.max_cost is not None and self.cost is None:
            raise ConfigError(
                "Batching(max_cost=…) has no cost function",
                fix="pass cost=, for example Batching(cost=len, …)",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a model needs: the ``pool`` of workers that serve it and the device ``memory`` it takes (``"2GiB"``)."""

    pool: str = "default"
    memory: str | int | None = None

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes; raises ``ConfigError`` for an unknown unit."""
        if self.memory is None or isinstance(self.memory, int):
            return self.memory
        return bytes_of(self.memory, f"Resources(memory={self.memory!r})")


def bytes_of(text: str, what: str) -> int:
    """``"2GiB"`` in bytes. Raises ``ConfigError`` that calls it ``what``."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ConfigError(what, fix='write it as "512MiB" or "2GiB"')
    size = float(match[1]) * _UNITS[match[2].lower()]
    if size > _MOST_BYTES:
        raise ConfigError(what, fix="no device has so much memory")
    return int(size)


class Model:
    """Base class of models: set ``name``, write ``predict``.

    The class docstring's first line is the description in ``penstock model list``. One instance lives in each
    worker process; ``predict`` is called from one thread at a time.
    """

    #: How users address it; also part of the queue's name. Lower case, digits, ``-`` and ``_``.
    name: ClassVar[str] = ""
    #: Stored with every job that it has run; change it when results change. ``name@version`` asks for it. A run of a
    #: pipeline goes on with the version that it began with, where the class names one.
    version: ClassVar[str] = "1"
    batching: ClassVar[Batching] = Batching()
    resources: ClassVar[Resources] = Resources()
    #: Limit on one attempt in seconds; ``None`` takes the setting ``job.timeout_s``.
    timeout_s: ClassVar[float | None] = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """In a pipeline's function, a step: ``embed(question)``. Elsewhere an instance, as of any class."""
        tracer = current()
        if tracer is not None:
            return typing.cast("Self", tracer.call(cls.name, item_from_call(args, kwargs), of=cls))
        if (args or kwargs) and cls.__init__ is object.__init__:  # which would say nothing
            raise TypeError(
                f"model {cls.name!r} is called in the function of a pipeline; elsewhere: client.run({cls.name!r}, …)"
            )
        return super().__new__(cls)

    @classmethod
    def preload(cls) -> None:
        """Bring into memory what workers of a machine may share, so that ``load`` finds it: map weights, read tables.

        Called in the process that workers are forked from, where there is one (``docs/operations.md``), and nowhere
        else: ``load`` must do without. It must start no thread, open no connection and touch no device.
        """

    @classmethod
    def forget(cls) -> None:
        """Let go of what ``preload`` has brought: this worker serves other models."""

    def load(self, device: str) -> None:
        """Load weights onto ``device`` (``"cpu"``, ``"cuda:0"``). Once per worker, before the warm-up."""

    def unload(self) -> None:
        """Free what ``load`` took and garbage collection would not, before the model leaves the device."""

    def example(self) -> Any:
        """An input to warm up and probe with; ``NotImplemented`` (the default) skips the warm-up."""
        return NotImplemented

    def predict(self, batch: Any) -> Sequence[Any]:
        """Results in the order of ``batch``, one per item; an exception instance fails that item alone."""
        raise NotImplementedError(f"{type(self).__name__} has no predict()")

    @classmethod
    def using(cls, **options: Unpack[CallOptions]) -> Using:
        """This model with options as of ``Client.enqueue``, which its signatures carry: ``.s``, ``.si``, ``.delay``
        and ``.apply_async`` of the answer. In a pipeline's function, with ``timeout`` and ``retry``: a step. Raises
        ``InvalidInput`` for one that is wrong, ``TypeError`` for an unknown one."""
        return Using(cls, options)

    @classmethod
    def s(cls, *args: Any, lane: str = Lane.INTERACTIVE, **kwargs: Any) -> Signature:
        """A Celery signature of this model, for ``chain``, ``group`` and ``chord`` in any Celery program."""
        return cls.using(lane=lane).s(*args, **kwargs)

    @classmethod
    def si(cls, *args: Any, lane: str = Lane.INTERACTIVE, **kwargs: Any) -> Signature:
        """The same, immutable: a canvas adds nothing to its arguments."""
        return cls.using(lane=lane).si(*args, **kwargs)

    @classmethod
    def delay(cls, *args: Any, **kwargs: Any) -> Any:
        """Send it through Celery now; Celery's ``AsyncResult``."""
        return cls.using().delay(*args, **kwargs)

    @classmethod
    def apply_async(
        cls,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        lane: str = Lane.INTERACTIVE,
        **options: Any,
    ) -> Any:
        """The same with Celery's options: ``countdown``, ``expires``, ``link`` and so on."""
        return cls.using(lane=lane).apply_async(args, kwargs, **options)

    @classmethod
    def apply(cls, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, one item, without a queue; Celery's ``EagerResult``."""
        return cls.s(*args, **(kwargs or {})).apply(**options)

    @classmethod
    def map(cls, it: Any, item: Callable[[Any], Any] | None = None) -> Any:
        """In a pipeline's function, a call for each element of a list, as one step: ``item`` makes of an element what
        the model is given. Elsewhere refused: ``no_maps``."""
        tracer = current()
        if tracer is None:
            from penstock.eager import no_maps

            no_maps(cls.name, "map")
        return tracer.each(cls.name, it, item, of=cls)

    @classmethod
    def starmap(cls, it: Any) -> Any:
        """Refused: see ``no_maps``."""
        from penstock.eager import no_maps

        no_maps(cls.name, "starmap")

    @classmethod
    def chunks(cls, it: Any, n: int) -> Any:
        """Refused: see ``no_maps``."""
        from penstock.eager import no_maps

        no_maps(cls.name, "chunks")

    @classmethod
    def takes_batch(cls) -> Callable[..., Any]:
        """The method whose hint tells the item type."""
        return cls.predict

    @classmethod
    def unwritten(cls) -> tuple[str, str] | None:
        """The first method that a subclass had to write and did not, and an example of it."""
        if cls.predict is Model.predict:
            return "predict", "def predict(self, batch: list[str]) -> list[…]"
        return None

    @classmethod
    def declares_version(cls) -> bool:
        """Whether it, or what it is made of, says ``version = …`` itself."""
        return any("version" in vars(base) for base in cls.__mro__ if base is not Model)

    @classmethod
    def describe(cls) -> str:
        """The first line of the docstring, or an empty text."""
        doc = inspect.cleandoc(cls.__doc__) if cls.__doc__ else ""
        return doc.splitlines()[0] if doc else ""


@typing.overload
def model(name: Callable[..., Sequence[Any]], /) -> type[Model]: ...
@typing.overload
def model(
    name: str | None = None,
    *,
    version: str | None = None,
    max_size: int = 32,
    batching: Batching | None = None,
    resources: Resources | None = None,
    timeout_s: float | None = None,
) -> Callable[[Callable[..., Sequence[Any]]], type[Model]]: ...
def model(
    name: str | Callable[..., Sequence[Any]] | None = None,
    *,
    version: str | None = None,
    max_size: int = 32,
    batching: Batching | None = None,
    resources: Resources | None = None,
    timeout_s: float | None = None,
) -> type[Model] | Callable[[Callable[..., Sequence[Any]]], type[Model]]:
    """Make a model from a function that takes a batch: ``@penstock.model(name="double", max_size=64)``.

    The function's hints and docstring are the model's, and its name is where none is given (also without the
    parentheses). The result is a ``Model`` subclass.
    """
    if callable(name):
        return model()(name)

    def wrap(function: Callable[..., Sequence[Any]]) -> type[Model]:
        if not _takes(function, None):
            raise ConfigError(
                f"{function.__module__}.{function.__qualname__} does not take a batch",
                fix=f"write def {function.__name__}(batch: list[…]) -> list[…]",
            )

        @functools.wraps(function)
        def predict(self: Model, batch: Any) -> Sequence[Any]:
            return function(batch)

        attributes: dict[str, Any] = {
            "name": name or function.__name__,
            **({} if version is None else {"version": version}),
            "batching": batching or Batching(max_size=max_size),
            "resources": resources or Resources(),
            "timeout_s": timeout_s,
            "predict": predict,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
        }
        cls = type(function.__name__, (Model,), attributes)
        check_model(cls)
        return cls

    return wrap


def check_model(cls: type[Model]) -> None:
    """Raise ``ConfigError`` when the class cannot be served."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not _NAME.fullmatch(cls.name or ""):
        raise ConfigError(
            f"{where} has name={cls.name!r}",
            fix='give it a name of lower-case letters, digits, "-" or "_", for example name = "embed"',
        )
    if not (isinstance(cls.version, str) and 0 < len(cls.version) <= MAX_VERSION and cls.version.isprintable()):
        raise ConfigError(
            f"{where} has version={cls.version!r:.80}",
            fix=f'give it a text of 1 to {MAX_VERSION} printable characters, for example version = "2"',
        )
    if (missing := cls.unwritten()) is not None:
        method, example = missing
        raise ConfigError(f"{where} has no {method}()", fix=f"write {example}")
    for method, arguments in (("load", "device: str"), ("predict", "batch: list[…]")):
        function = inspect.getattr_static(cls, method)
        if inspect.isfunction(function) and not _takes(function, None, None):
            raise ConfigError(
                f"{where}.{method}{inspect.signature(function)} cannot be called",
                fix=f"write def {method}(self, {arguments})",
            )
    if _is_one(hint := hint_of(cls)):
        shown = getattr(hint, "__name__", str(hint))
        raise ConfigError(
            f"{where} takes one {shown}, not a batch of them",
            fix=f"hint the batch: list[{shown}], and return one result per item",
        )
    refuse_bytes(cls, item_of(hint))
    _ = cls.resources.memory_bytes


def _takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        inspect.signature(function, follow_wrapped=False).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


def _is_one(hint: Any) -> bool:
    """Whether a hint is that of one item where a batch is meant."""
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and (
        issubclass(kind, (str, bytes, int, float, Mapping, Set)) or is_dataclass(kind) or hasattr(kind, "model_fields")
    )
