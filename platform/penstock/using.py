"""A model, a function or a pipeline with options: whatever Celery signature is made of it carries them. Celery is
imported by the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.codec import item_from_call
from penstock.lane import Lane
from penstock.options import Options
from penstock.tracing import Tracer, current, step_options

if TYPE_CHECKING:
    from celery.canvas import Signature

    from penstock.model import Model


class Sends:
    """What has the verbs of a Celery task: its signatures carry ``options``, and name ``of``, a model's class or a
    pipeline."""

    def __init__(self, of: Any, options: Options, *, check: bool = True) -> None:
        if check and current() is None:
            from penstock.signatures import celery_options

            celery_options(options)  # what is wrong is told where it is written
        self._of = of
        self._options = options

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature, as ``Model.s``."""
        return self._signature(args, kwargs, immutable=False)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """The same, immutable: a canvas adds nothing to its arguments."""
        return self._signature(args, kwargs, immutable=True)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it through Celery now; Celery's ``AsyncResult``."""
        return self.s(*args, **kwargs).apply_async()

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The same with Celery's options: ``countdown``, ``expires``, ``link`` and so on."""
        return self.s(*args, **(kwargs or {})).apply_async(**options)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, without a queue; Celery's ``EagerResult``."""
        return self.s(*args, **(kwargs or {})).apply(**options)

    def _signature(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, immutable: bool) -> Signature:
        from penstock.signatures import model_signature

        return model_signature(self._of.name, args, kwargs, immutable=immutable, model=self._of, **self._options)


class Sendable:
    """A function or a pipeline has the verbs of a Celery task, too: those of what it is with no options but a lane.

    A model has them as a class.
    """

    #: With options as of ``Client.enqueue``, which its signatures carry.
    using: Callable[..., Sends]

    def s(self, *args: Any, lane: str = Lane.INTERACTIVE, **kwargs: Any) -> Signature:
        """A Celery signature, for ``chain``, ``group`` and ``chord`` in any Celery program. It is called with the
        arguments, those of a pipeline are its inputs; in a canvas the result before comes first."""
        return self.using(lane=lane).s(*args, **kwargs)

    def si(self, *args: Any, lane: str = Lane.INTERACTIVE, **kwargs: Any) -> Signature:
        """The same, immutable: a canvas adds nothing to its arguments."""
        return self.using(lane=lane).si(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it through Celery now; Celery's ``AsyncResult``."""
        return self.using().delay(*args, **kwargs)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The same with Celery's options, and ``lane``."""
        return self.using(lane=options.pop("lane", Lane.INTERACTIVE)).apply_async(args, kwargs, **options)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, without a queue; Celery's ``EagerResult``."""
        return self.using().apply(args, kwargs, **options)


class Using(Sends):
    """A model whose signatures carry options."""

    def __init__(self, model: type[Model], options: Options) -> None:
        super().__init__(model, options)
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In a pipeline's function, a step with these options."""
        options = step_options(self._options)
        return self._tracer().call(self._model.name, item_from_call(args, kwargs), options, of=self._model)

    def map(self, values: Any, item: Callable[[Any], Any] | None = None) -> Any:
        """The same, called for each element of a list: as ``Model.map``."""
        return self._tracer().each(self._model.name, values, item, step_options(self._options), of=self._model)

    def _tracer(self) -> Tracer:
        tracer = current()
        if tracer is None:
            raise TypeError(f"model {self._model.name!r} is called in the function of a pipeline")
        return tracer
