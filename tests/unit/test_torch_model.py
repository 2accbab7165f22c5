"""``TorchModel`` on the CPU: a real module, through its whole life."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from penstock import TorchModel
from penstock.testing import run_model
from penstock_worker.device import choose_device, is_out_of_memory
from penstock_worker.loader import load_model


class Sums(TorchModel):
    """Row sums, by a linear layer of ones."""

    name = "sums"

    def build(self) -> torch.nn.Module:
        layer = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.ones_(layer.weight)
        return torch.nn.Sequential(layer, torch.nn.Dropout(0.9))

    def collate(self, batch: list[list[float]]) -> torch.Tensor:
        return torch.tensor(batch, dtype=getattr(torch, self.dtype))

    def example(self) -> list[float]:
        return [1.0, 2.0, 3.0]


class Pairs(Sums):
    """Inputs as keywords, results by a ``split`` of its own."""

    name = "pairs"

    def build(self) -> torch.nn.Module:
        class Scale(torch.nn.Module):
            def forward(self, *, values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
                return values * factor

        return Scale()

    def collate(self, batch: list[float]) -> dict[str, torch.Tensor]:
        values = torch.tensor(batch)
        return {"values": values, "factor": torch.full_like(values, 2.0)}

    def example(self) -> float:
        return 1.0

    def split(self, output: torch.Tensor, size: int) -> list[float]:
        return [round(value, 3) for value in output.tolist()]


class Half(Sums):
    name = "half"
    dtype = "bfloat16"


def test_a_batch_gives_one_result_per_item():
    model = load_model(Sums, "cpu")
    assert model.predict([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]) == [[6.0], [1.0]], "eval mode: nothing is dropped out"


def test_no_gradient_is_recorded():
    model = load_model(Sums, "cpu")
    seen: list[bool] = []
    model.module.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    model.predict([[1.0, 1.0, 1.0]])
    assert seen == [True]


def test_dtype_is_the_parameters():
    model = load_model(Half, "cpu")
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert model.predict([[1.0, 2.0, 3.0]]) == [[6.0]]


def test_keywords_and_a_split_of_its_own():
    assert run_model(Pairs, [1.0, 2.5]) == [2.0, 5.0]


def test_autocast_runs_in_mixed_precision():
    class Mixed(Sums):
        name = "mixed"
        autocast = True

    model = load_model(Mixed, "cpu")
    seen: list[torch.dtype] = []
    model.module[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    model.predict([[1.0, 2.0, 3.0]])
    assert seen == [torch.bfloat16]


def test_a_model_without_build_says_so():
    class Empty(TorchModel):
        name = "empty"

    with pytest.raises(Exception, match=r"Empty has no build\(\)"):
        load_model(Empty, "cpu")


def test_devices():
    assert choose_device("cuda:1") == "cuda:1", "what is asked for is taken"
    assert choose_device() == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert is_out_of_memory(torch.OutOfMemoryError("no room"))
    assert not is_out_of_memory(RuntimeError("something else"))


def test_defining_a_torch_model_does_not_import_torch():
    code = "import sys, penstock\nclass M(penstock.TorchModel):\n    name = 'm'\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
