"""Bringing a model up: whatever it raises is told as its own fault."""

from __future__ import annotations

import time

import pytest
from celery.exceptions import WorkerShutdown

from penstock.errors import ModelLoadFailed
from penstock.model import Batching, Model
from penstock.policy.latency import LatencyBook
from penstock_worker.models.loader import load_model, load_models


class Panic(BaseException):
    """What an extension in another language may raise."""


def model_raising(step: str, error: BaseException) -> type[Model]:
    class Fragile(Model):
        name = "fragile"

        def load(self, device: str) -> None:
            if step == "load":
                raise error

        def example(self) -> int:
            return 1

        def predict(self, batch: list[int]) -> list[int]:
            raise error

    return Fragile


@pytest.mark.parametrize("step", ["load", "warm up"])
@pytest.mark.parametrize("error", [ValueError("no"), Panic("no"), SystemExit("no")], ids=repr)
def test_a_model_that_does_not_come_up_is_named(step: str, error: BaseException):
    with pytest.raises(ModelLoadFailed, match=f"'fragile' did not {step} on cpu: {type(error).__name__}.*: no"):
        load_model(model_raising(step, error), "cpu")


def test_the_end_of_the_worker_is_not_the_models_fault():
    with pytest.raises(WorkerShutdown):
        load_model(model_raising("load", WorkerShutdown(0)), "cpu")


COMPILE_S = 0.2


class Compiles(Model):
    """Compiles for each size that it has not seen yet, as ``torch.compile`` does."""

    name = "compiles"
    batching = Batching(max_size=4)

    def load(self, device: str) -> None:
        self.seen: set[int] = set()

    def example(self) -> int:
        return 1

    def predict(self, batch: list[int]) -> list[int]:
        if len(batch) not in self.seen:
            self.seen.add(len(batch))
            time.sleep(COMPILE_S)
        return batch


def test_no_probe_times_a_first_call() -> None:
    latency = LatencyBook()
    load_models([Compiles], "cpu", latency)
    line = latency.line("compiles")
    assert line.seen >= 2 and line.predict(4) < COMPILE_S / 4
    assert not latency.first("compiles", 2), "that size was compiled for"


def test_a_model_that_is_loaded_again_compiles_again() -> None:
    latency = LatencyBook()
    load_models([Compiles], "cpu", latency)
    load_models([Compiles], "cpu", latency)
    assert latency.first("compiles", 2)
