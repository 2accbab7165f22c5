"""Celery's remote control has one command more: ``lane``, by which the autoscaler splits a pool for a while.

``app.control.broadcast("lane", destination=[…], arguments={"lane": "interactive", "for_s": 30})``; without a lane, the
worker does both again.
"""

from __future__ import annotations

import math
from typing import Any

from celery.worker.control import control_command

from penstock.errors import safe_text
from penstock.lane import Lane

#: Its name.
COMMAND = "lane"


def install() -> None:
    """Add it in this process. Idempotent."""
    control_command(name=COMMAND, args=[("lane", str), ("for_s", float)], signature="[interactive [SECONDS]]")(_lane)


def _lane(state: Any, lane: Any = None, for_s: Any = 30.0, **kwargs: Any) -> dict[str, str]:
    serving = getattr(getattr(state.consumer, "controller", None), "penstock", None)
    if serving is None:
        return {"error": "this worker serves no models"}
    if lane not in (None, "", *Lane):
        return {"error": f"{safe_text(lane)} is no lane: use one of {', '.join(Lane)}"}
    try:
        seconds = float(for_s)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        return {"error": f"{safe_text(for_s)} is no time: seconds, more than 0"}
    return {"ok": serving.keep_to(Lane(lane) if lane else None, seconds)}
