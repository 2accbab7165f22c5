"""``TorchModel``: what torch users expect around a ``forward``.

Importing this module does not import torch; loading a model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.model import Model

if TYPE_CHECKING:
    import torch


class TorchModel(Model):
    """A model whose work is one ``torch.nn.Module``.

    Write ``build`` (the module, on the CPU) and ``collate`` (a batch of items to the module's inputs); override
    ``split`` where a result is not simply row *i* of the output. The module runs in ``eval`` mode under
    ``torch.inference_mode`` and, with ``autocast``, in mixed precision.
    """

    #: ``"float32"``, ``"float16"`` or ``"bfloat16"``: the dtype of the parameters.
    dtype: ClassVar[str] = "float32"
    #: Run ``forward`` under ``torch.autocast`` (``bfloat16`` on the CPU, ``float16`` on CUDA).
    autocast: ClassVar[bool] = False

    module: torch.nn.Module
    device: torch.device

    def build(self) -> torch.nn.Module:
        """The module with its weights, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no build()")

    def collate(self, batch: Sequence[Any]) -> Any:
        """Inputs of the module: a tensor, a tuple (positional) or a dict (keywords); first dimension = items.

        The default makes one tensor of equally shaped numbers.
        """
        import torch

        return torch.as_tensor(batch)

    def split(self, output: Any, size: int) -> Sequence[Any]:
        """``size`` results from the module's output; the default gives row *i* as nested lists of numbers."""
        rows = output.float().cpu() if output.is_floating_point() else output.cpu()
        return list(rows[:size].tolist())

    def load(self, device: str) -> None:
        """Build the module and move it to ``device`` in the model's dtype."""
        import torch

        self.device = torch.device(device)
        self.module = self.build().to(self.device, getattr(torch, self.dtype)).eval()

    def predict(self, batch: Any) -> Sequence[Any]:
        """Collate, transfer, forward, split."""
        import torch

        inputs = self._transfer(self.collate(batch))
        half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=half, enabled=self.autocast):
            if isinstance(inputs, dict):
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
        if isinstance(value, dict):
            return {key: self._transfer(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(self._transfer(item) for item in value)
        return value
