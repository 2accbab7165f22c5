"""``TorchModel`` on a CUDA device. Run with ``pytest -m gpu`` where there is one."""

from __future__ import annotations

import pytest
import torch

from penstock import TorchModel
from penstock_worker.execute.prediction import predict_each
from penstock_worker.models.loader import load_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Product(TorchModel):
    """A matrix product per item; an item ``n`` takes ``n x n`` floats on the device."""

    name = "product"

    def build(self) -> torch.nn.Module:
        class Trace(torch.nn.Module):
            def forward(self, sizes: torch.Tensor) -> torch.Tensor:
                out = [torch.ones(int(n), int(n), device=sizes.device).trace() for n in sizes]
                return torch.stack(out)

        return Trace()

    def collate(self, batch: list[int]) -> torch.Tensor:
        return torch.tensor(batch)


def test_results_come_back_from_the_device():
    model = load_model(Product, "cuda:0")
    assert model.predict([2, 3]) == [2.0, 3.0]
    assert model.device.type == "cuda"


def test_out_of_memory_fails_the_large_item_alone():
    model = load_model(Product, "cuda:0")
    free, _ = torch.cuda.mem_get_info()
    too_large = int((2 * free / 4) ** 0.5)
    results = predict_each(model, [2, too_large, 3])
    assert [results[0], results[2]] == [2.0, 3.0]
    assert results[1].code == "out_of_memory"


def test_autocast_computes_in_half_precision():
    class Mixed(TorchModel):
        name = "mixed"
        autocast = True

        def build(self) -> torch.nn.Module:
            return torch.nn.Linear(8, 8)

    model = load_model(Mixed, "cuda:0")
    seen: list[torch.dtype] = []
    model.module.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    model.predict([[1.0] * 8])
    assert seen == [torch.float16]
