"""The output file of ``penstock batch run``, made ready for what follows. No result in it is ever lost.

It is changed in one step or not at all: what a kill, a full disk or a lost power leaves behind is the file as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from penstock_cli import jsonl


def prepare(target: Path, *, resume: bool) -> set[str]:
    """Empty the file, or keep its responses: the ids of those. A line that was cut off is dropped, and so are the
    failed ones, which run again."""
    if not target.is_file():  # none yet, or a device
        return set()
    if not resume:
        target.write_bytes(b"")
        return set()
    done: set[str] = set()
    end, gap = 0, False  # of the kept lines at the beginning; whether more follow behind one that is dropped
    position, cut = 0, False
    with target.open("rb") as file:
        for raw in file:
            position += len(raw)
            id = jsonl.done_id(raw)
            if id is None:
                continue
            done.add(id)
            gap |= end != position - len(raw)
            end = position if not gap else end
            cut = not raw.endswith(b"\n")
    if gap:
        _rewrite(target)
    elif end < position or cut:
        # Nothing but its end is to go: that needs no room on the disk.
        with target.open("r+b") as file:
            file.truncate(end)
            if cut:
                file.seek(end)
                file.write(b"\n")
    return done


def _rewrite(target: Path) -> None:
    """Leave only the lines with a response, byte for byte."""
    place = target.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    try:
        with os.fdopen(handle, "wb") as draft, place.open("rb") as file:
            for raw in file:
                if jsonl.done_id(raw) is not None:
                    draft.write(raw if raw.endswith(b"\n") else raw + b"\n")
            draft.flush()
            os.fsync(draft.fileno())
        shutil.copymode(place, name)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
