"""A process that loads the model of ``benchmarks/warm.py`` and does one forward pass: no worker, no servers."""

from __future__ import annotations

from benchmarks.warmmodel import Deep

from penstock_worker.zygote.newborn import unfold

if __name__ == "__main__":
    unfold()  # as a worker does
    model = Deep()
    model.load("cpu")
    model.predict([model.example()])
