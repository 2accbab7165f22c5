"""What a worker claims of each queue: the pure rule, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.lane import Lane
from penstock.policy.prefetch import Queue, quotas

HOT = Queue(name="a.int", lane=Lane.INTERACTIVE, waiting=0, room=64)
COLD = Queue(name="b.int", lane=Lane.INTERACTIVE, waiting=0, room=64)
BULK = Queue(name="a.bg", lane=Lane.BACKGROUND, waiting=0, room=64)
#: A full batch of 64 takes 24 ms, and is claimed 20 ms ahead.
LEAD_S = 0.02


@pytest.mark.parametrize(
    ("queues", "situation", "claims"),
    [
        pytest.param([HOT, BULK], {"busy_s": 0.0}, [64, 64], id="an idle device"),
        pytest.param([HOT, BULK], {"busy_s": 0.021}, [0, 0], id="busy for longer than a claim takes"),
        pytest.param([HOT, BULK], {"busy_s": 0.02}, [64, 64], id="about to be free"),
        pytest.param([HOT, BULK], {"busy_s": 0.01, "fed": True}, [64, 0], id="the next batch has background work"),
        pytest.param(
            [HOT, BULK], {"busy_s": 0.01, "fed": True, "fed_urgent": True}, [0, 0], id="the next batch was claimed"
        ),
        pytest.param([HOT, BULK], {"busy_s": 0.03, "overtaken_s": 0.024}, [64, 0], id="it would go first"),
        pytest.param(
            [replace(HOT, waiting=20, ahead_s=0.013), BULK], {"busy_s": 0.01}, [44, 0], id="the rest of a batch"
        ),
        pytest.param(
            [replace(HOT, waiting=64, ahead_s=0.024, full_s=0.024, room=128), BULK],
            {"busy_s": 0.0},
            [0, 0],
            id="a full batch is here: it would start behind it",
        ),
        pytest.param(
            [replace(HOT, waiting=20, ahead_s=0.025), COLD], {"busy_s": 0.0}, [44, 0], id="behind another model's work"
        ),
        pytest.param([replace(HOT, closed=True), COLD], {"busy_s": 0.0}, [0, 64], id="a model that is to leave"),
        pytest.param([replace(HOT, begun=3, room=8), BULK], {"busy_s": 9.0}, [5, 0], id="sequences join at any step"),
        pytest.param([replace(HOT, begun=8, room=8)], {"busy_s": 9.0}, [1], id="one may always wait"),
        pytest.param([replace(HOT, begun=8, room=8, waiting=1)], {"busy_s": 9.0}, [0], id="one"),
    ],
)
def test_quotas(queues: list[Queue], situation: dict[str, float], claims: list[int]) -> None:
    found = quotas(queues, lead_s=LEAD_S, **situation)  # type: ignore[arg-type]
    assert list(found) == [queue.name for queue in queues], "a queue that is not named is claimed without end"
    assert list(found.values()) == claims
