"""The model that the chaos tests serve in real worker processes."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from penstock import Batching, Model


@dataclass
class Item:
    """``key`` is written to ``ledger`` for each execution; ``fate`` is ``ok`` or ``fail``."""

    ledger: str
    key: str
    fate: str
    pause_s: float


class Witnessed(Model):
    """Writes down every execution, takes its time as a device does, and fails whom it is told to."""

    name = "witnessed"
    batching = Batching(max_size=16)

    def predict(self, batch: list[Item]) -> list[object]:
        for ledger in {item.ledger for item in batch}:
            keys = [item.key for item in batch if item.ledger == ledger]
            # One write with O_APPEND: a kill leaves all of these lines or none, and two workers never mix theirs.
            file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, "".join(f"{key}\n" for key in keys).encode())
            finally:
                os.close(file)
        threading.Event().wait(max(item.pause_s for item in batch))
        return [ValueError(f"told to fail: {item.key}") if item.fate == "fail" else item.key for item in batch]
