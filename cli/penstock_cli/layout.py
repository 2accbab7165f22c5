"""Text in the width of a terminal. PURE.

Columns that matter least are left out, and long texts end at a word: nothing runs over the edge, where the terminal
would break it in the middle. What goes into a file or a pipe is left whole; that is the caller's to know.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

#: Between two columns.
GAP = 2
#: A column of text is made no narrower than this, characters.
NARROWEST = 12

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"), (1.0, "s"))


def age(seconds: float) -> str:
    """How long ago, in its largest unit: ``5s``, ``3m``, ``2h``, ``4d``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return "0s"


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, ending with a whole word and an ellipsis."""
    if len(text) <= width:
        return text
    head = text[:width].rpartition(" ")[0].rstrip(" ,;:.")
    return f"{head or text[: width - 1]}…"[:width] if len(head) < width else f"{text[: width - 1]}…"


def wrap(text: str, width: int | None, *, indent: str = "") -> str:
    """Lines of at most ``width``, broken between words; ``indent`` begins what continues a line. A line that begins
    with a space is laid out already."""
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        if len(line) <= width or line.startswith("    "):
            lines.append(line)
            continue
        lines += textwrap.wrap(
            line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def fit(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    drop: Sequence[str] = (),
    wide: Sequence[str] = (),
) -> tuple[list[str], list[list[str]]]:
    """The table in ``width`` characters: columns in ``wide`` are shortened, then those in ``drop`` left out, in that
    order, then others from the right. The first column always stays, as it is."""
    order = [name for name in drop if name in header]
    order += [name for name in reversed(header[1:]) if name not in order]
    kept = list(range(len(header)))
    while True:
        widths = [max([len(header[column]), *(len(row[column]) for row in rows)]) for column in kept]
        excess = sum(widths) + GAP * (len(kept) - 1) - width
        limits: dict[int, int] = {}
        for column, has in sorted(zip(kept, widths, strict=True), key=lambda pair: -pair[1]):
            # The last one beside the first is better told in part than not at all.
            least = max(NARROWEST if len(kept) > 2 else 1, len(header[column]))
            if excess > 0 and header[column] in wide and has > least:
                limits[column] = max(least, has - excess)
                excess -= has - limits[column]
        if excess <= 0 or len(kept) == 1:
            break
        kept.remove(header.index(order.pop(0)))
    cells = [
        [shorten(row[column], limits[column]) if column in limits else row[column] for column in kept] for row in rows
    ]
    return [header[column] for column in kept], cells
