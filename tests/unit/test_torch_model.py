"""``TorchModel`` on the CPU: a real module, through its whole life."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from penstock import TorchModel
from penstock.errors import ModelLoadFailed, WrongResultCount
from penstock.testing import run_model
from penstock_worker.execute.device import choose_device, is_out_of_memory
from penstock_worker.models.loader import load_model


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


class Whole(TorchModel):
    """Gives what its module gives: the items themselves, or what ``shape`` makes of them."""

    name = "whole"

    def build(self) -> torch.nn.Module:
        model = self

        class Module(torch.nn.Module):
            def forward(self, rows: torch.Tensor) -> Any:
                return model.shape(rows)

        return Module()

    def shape(self, rows: torch.Tensor) -> Any:
        return rows


ROWS = [[0.1, 1e300, 1.0], [2.0, 3.0, 4.0]]


def test_float64_keeps_its_digits() -> None:
    class Double(Whole):
        dtype = "float64"

    assert run_model(Double, ROWS) == ROWS


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_default_collate_gives_what_the_parameters_are(dtype: str) -> None:
    class Scaled(TorchModel):
        name = "scaled"

        def build(self) -> torch.nn.Module:
            layer = torch.nn.Linear(3, 1, bias=False)
            torch.nn.init.ones_(layer.weight)
            return layer

    Scaled.dtype = dtype
    assert run_model(Scaled, [[1.0, 2.0, 3.5]]) == [[6.5]]
    model = Scaled()
    assert model.collate([[1, 2]]).dtype is torch.int64, "whole numbers are indices"
    assert model.collate([[True]]).dtype is torch.bool


def test_a_dtype_that_torch_has_not_is_named() -> None:
    class Odd(Whole):
        dtype = "bf16"

    with pytest.raises(ModelLoadFailed, match="dtype='bf16'"):
        load_model(Odd, "cpu")


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """As transformers have it: a dict whose iteration gives names."""


SHAPES: dict[str, tuple[Callable[[torch.Tensor], Any], str | None]] = {
    "more rows": (lambda x: torch.cat([x, x, x])[:5], r"has the shape \(5, 3\) for 2 items"),
    "fewer rows": (lambda x: x[:1], r"\(1, 3\) for 2 items"),
    "no dimension": (lambda x: x.sum(), r"the shape \(\) for 2"),
    "a dict": (lambda x: {"a": x, "b": x.sum(1)}, None),
    "a dict with another": (lambda x: {"a": x, "b": x.T}, r"output\['b'\].* \(3, 2\)"),
    "a tuple with another": (lambda x: (x, (x, x[:1])), r"output\[1\]\[1\].* \(1, 3\)"),
    "a dataclass": (lambda x: Output(x), None),
    "a dataclass with another": (lambda x: Output(x, x.T), r"output\['hidden'\]"),
    "a model output": (lambda x: ModelOutput(logits=x), None),
    "a model output with another": (lambda x: ModelOutput(logits=x, loss=x.sum()), r"\['loss'\].*\(\)"),
    "text": (lambda x: "ab", "of type str"),
    "none": (lambda x: None, "of type NoneType"),
    "a set inside": (lambda x: {"a": {1}}, r"output\['a'\].* of type set"),
}


@pytest.mark.parametrize(("shape", "says"), SHAPES.values(), ids=SHAPES)
def test_each_tensor_of_the_output_has_a_row_per_item(shape: Callable[[torch.Tensor], Any], says: str | None) -> None:
    class Shaped(Whole):
        def shape(self, rows: torch.Tensor) -> Any:
            return shape(rows)

    answers = run_model(Shaped, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], return_exceptions=True)
    if says is None:
        assert [next(iter(answer.values())) for answer in answers] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        return
    for answer in answers:
        assert isinstance(answer, WrongResultCount)
        assert re.search(says, answer.message), answer.message


def test_a_tuple_gives_each_item_its_rows() -> None:
    class Two(Whole):
        def shape(self, rows: torch.Tensor) -> Any:
            return rows[:, 0], None, {"sum": rows.sum(1)}

    assert run_model(Two, [[1.0, 2.0], [3.0, 4.0]]) == [[1.0, None, {"sum": 3.0}], [3.0, None, {"sum": 7.0}]]


class Net(torch.nn.Module):
    """Tied weights, and a buffer that is in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.into = torch.nn.Linear(8, 8, bias=False)
        self.back = torch.nn.Linear(8, 8, bias=False)
        self.back.weight = self.into.weight
        self.norm = torch.nn.BatchNorm1d(8)
        self.register_buffer("shift", torch.arange(8.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.back(self.into(x))) + self.shift


class Mapped(TorchModel):
    """A module whose parameters are in a file."""

    name = "mapped"

    def build(self) -> torch.nn.Module:
        return Net()


def _written(path: Path) -> torch.nn.Module:
    module = Net().eval()
    torch.nn.init.normal_(module.norm.weight)
    state = module.state_dict()
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return module


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("preloaded", [False, True])
def test_weights_are_those_of_the_file_mapped_and_not_copied(tmp_path: Path, name: str, preloaded: bool) -> None:
    path = tmp_path / name
    module = _written(path)
    served = type("Served", (Mapped,), {"weights": path})
    if preloaded:
        served.preload()
    model = load_model(served, "cpu")
    row = [float(number) for number in range(8)]
    with torch.inference_mode():
        assert model.predict([row]) == module(torch.tensor([row])).tolist()
    address = model.module.norm.weight.data_ptr()
    assert str(path) in _mapping_of(address)
    # What was prepared is taken once: whoever loads again has a module of its own.
    assert load_model(served, "cpu").module is not model.module
    if preloaded:
        served.preload()
        served.forget()
        assert load_model(served, "cpu").predict([row]) == model.predict([row])


def test_weights_in_another_type_than_the_files_are_converted(tmp_path: Path) -> None:
    _written(path := tmp_path / "weights.pt")
    served = type("Half", (Mapped,), {"weights": path, "dtype": "bfloat16"})
    assert load_model(served, "cpu").module.into.weight.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file of weights"),
        (b"no weights", "cannot be mapped"),
        ([1.0], "are a list"),
        ({"else": torch.ones(1)}, "do not fit what build() makes"),
    ],
)
def test_weights_that_cannot_be_used_are_named(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelLoadFailed, match=re.escape(said)):
        load_model(type("Wrong", (Mapped,), {"weights": path}), "cpu")


def test_a_value_that_is_in_no_file_is_named(tmp_path: Path) -> None:
    class Empty(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(2, device="meta"), persistent=False)

    torch.save({}, path := tmp_path / "weights.pt")
    served = type("Empty", (Mapped,), {"weights": path, "build": lambda self: Empty()})
    with pytest.raises(ModelLoadFailed, match="table of model 'mapped' has no value"):
        load_model(served, "cpu")


def _mapping_of(address: int) -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return line
    return ""
