"""``TorchModel``: what torch users expect around a ``forward``.

Importing this module does not import torch; loading a model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from penstock import weights
from penstock.errors import ConfigError, WrongResultCount
from penstock.model import Model

if TYPE_CHECKING:
    import torch


class TorchModel(Model):
    """A model whose work is one ``torch.nn.Module``.

    Write ``build`` (the module, on the CPU) and ``collate`` (a batch of items to the module's inputs); override
    ``split`` where a result is not simply row *i* of the output. The module runs in ``eval`` mode under
    ``torch.inference_mode`` and, with ``autocast``, in mixed precision.

    With ``weights``, ``build`` says only what the module is made of: its parameters are those of the file, mapped.
    """

    #: ``"float32"``, ``"float64"``, ``"float16"`` or ``"bfloat16"``: the dtype of the parameters.
    dtype: ClassVar[str] = "float32"
    #: Run ``forward`` under ``torch.autocast`` (``bfloat16`` on the CPU, ``float16`` on CUDA).
    autocast: ClassVar[bool] = False
    #: A file of the parameters, by ``torch.save(module.state_dict(), PATH)`` or ``.safetensors``. It is mapped into
    #: memory, not read: workers of a machine share it.
    weights: ClassVar[str | PathLike[str] | None] = None

    #: A module that was built before this process was forked; the first ``load`` takes it.
    _prepared: ClassVar[torch.nn.Module | None] = None

    module: torch.nn.Module
    device: torch.device

    def build(self) -> torch.nn.Module:
        """The module with its weights, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no build()")

    def collate(self, batch: Sequence[Any]) -> Any:
        """Inputs of the module: a tensor, a tuple (positional) or a dict (keywords); first dimension = items.

        The default makes one tensor of equally shaped numbers: whole numbers stay whole, others take ``dtype``.
        """
        import torch

        tensor = torch.as_tensor(batch)
        wanted = _dtype(self.dtype)
        if tensor.is_floating_point() and tensor.dtype is not wanted:
            # From the numbers again: float64 through float32 would lose half of their digits.
            tensor = torch.as_tensor(batch, dtype=wanted)
        return tensor

    def split(self, output: Any, size: int) -> Sequence[Any]:
        """``size`` results from the module's output; the default gives row *i* as nested lists of numbers.

        Of a dict, a tuple or a dataclass of tensors each result has row *i* of all of them. A list is taken as the
        results. Raises ``WrongResultCount`` for a tensor whose first dimension is not ``size``.
        """
        return rows_of(self.name, output, size)

    @classmethod
    def preload(cls) -> None:
        """Map the ``weights`` and build the module around them."""
        if cls.weights is not None:
            cls._prepared = cls()._built()

    @classmethod
    def forget(cls) -> None:
        """Unmap them."""
        cls._prepared = None

    def load(self, device: str) -> None:
        """Build the module and move it to ``device`` in the model's dtype."""
        import torch

        self.device = torch.device(device)
        module, type(self)._prepared = vars(type(self)).get("_prepared"), None
        self.module = (module or self._built()).to(self.device, _dtype(self.dtype)).eval()

    def _built(self) -> torch.nn.Module:
        if self.weights is None:
            return self.build()
        with weights.unfilled():
            module = self.build()
        return weights.assign(module, weights.mapped(self.weights), of=f"model {self.name!r}")

    def predict(self, batch: Any) -> Sequence[Any]:
        """Collate, transfer, forward, split."""
        import torch

        inputs = self._transfer(self.collate(batch))
        half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=half, enabled=self.autocast):
            if isinstance(inputs, Mapping):
                output = self.module(**inputs)
            elif isinstance(inputs, tuple):
                output = self.module(*inputs)
            else:
                output = self.module(inputs)
            return self.split(output, len(batch))

    def _transfer(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            if self.device.type == "cuda" and value.device.type == "cpu":
                # Pinned memory lets the copy overlap with the CPU's next work.
                value = value.pin_memory()
            return value.to(self.device, non_blocking=True)
        if isinstance(value, Mapping):  # what tokenizers give is no dict
            return {key: self._transfer(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(self._transfer(item) for item in value)
        if isinstance(value, list):
            return [self._transfer(item) for item in value]
        return value


def rows_of(model: str, output: Any, size: int, path: str = "") -> list[Any]:
    """Row *i* of each tensor in ``output``, for every *i* below ``size``; raises ``WrongResultCount``."""
    import torch

    if isinstance(output, torch.Tensor):
        shape = tuple(output.shape)
        if not shape or shape[0] != size:
            raise WrongResultCount(
                f"the output{path} of model {model!r} has the shape {shape} for {size} items",
                fix="its first dimension must be the batch; override split() where it is not",
            )
        return list(output.detach().cpu().tolist())
    if isinstance(output, list) and not path:
        return output
    if output is None and path:
        return [None] * size  # what was not asked for
    if is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, Mapping):
        columns = {key: rows_of(model, value, size, f"{path}[{key!r}]") for key, value in output.items()}
        if columns:
            return [{key: rows[index] for key, rows in columns.items()} for index in range(size)]
    elif isinstance(output, (tuple, list)):
        parts = [rows_of(model, value, size, f"{path}[{place}]") for place, value in enumerate(output)]
        if parts:
            return [[rows[index] for rows in parts] for index in range(size)]
    raise WrongResultCount(
        f"the output{path} of model {model!r} is of type {type(output).__name__}, which has no rows",
        fix="override split() to make one result per item of it",
    )


def _dtype(name: str) -> torch.dtype:
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype={name!r} is none of torch's", fix='for example dtype = "bfloat16"')
    return dtype
