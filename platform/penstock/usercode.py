"""Code of the user's that is run by us: what it raises is its error, whatever it is, and never the end of our process.

``exit()`` in a module of models raises ``SystemExit``, and libraries written in Rust raise a ``BaseException`` of their
own. Let through, they would end a command with status 0 and without a word. What must be let through is what a signal
raised while that code ran: it is meant for us.
"""

from __future__ import annotations

import dis
import signal
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType

from penstock.errors import safe_text

_RAISES = frozenset(code for name, code in dis.opmap.items() if name in ("RAISE_VARARGS", "RERAISE"))


def is_its_own(error: BaseException) -> bool:
    """Whether the code raised it by itself, rather than a signal that came while it ran."""
    if isinstance(error, (Exception, SystemExit)):
        return not _from_handler(error)
    if isinstance(error, KeyboardInterrupt):
        # The default handler of Ctrl-C is written in C and has no frame: the interrupted code is where it was raised,
        # in the middle of any instruction but a ``raise``.
        return not _from_handler(error) and _at_raise(error.__traceback__)
    return not _from_handler(error)


def told(error: BaseException) -> str:
    """The error for a message: type and text."""
    text = safe_text(error)
    name = "SystemExit (it calls exit())" if isinstance(error, SystemExit) else type(error).__name__
    return f"{name}: {text}" if text else name


def _from_handler(error: BaseException) -> bool:
    codes = set(_handlers())
    return any(frame.f_code in codes for frame, _ in _frames(error.__traceback__))


def _handlers() -> Iterator[CodeType]:
    """The code of the Python functions that handle signals now."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if code is not None:
            yield code


def _at_raise(traceback: TracebackType | None) -> bool:
    frames = list(_frames(traceback))
    if not frames:
        return False
    frame, place = frames[-1]
    return frame.f_code.co_code[place] in _RAISES


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lasti
        traceback = traceback.tb_next
