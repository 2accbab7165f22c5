"""A model with options: whatever Celery signature is made of it carries them. Celery is imported by the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.options import Options

if TYPE_CHECKING:
    from celery.canvas import Signature

    from penstock.model import Model


class Using:
    """A model whose signatures carry options."""

    def __init__(self, model: type[Model], options: Options) -> None:
        from penstock.signatures import celery_options

        celery_options(options)  # what is wrong is told where it is written
        self._model = model
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

    def _signature(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, immutable: bool) -> Signature:
        from penstock.signatures import model_signature

        model = self._model
        return model_signature(model.name, args, kwargs, immutable=immutable, model=model, **self._options)
