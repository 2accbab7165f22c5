"""The ids that a command is given: whole, by a beginning that only one job has, or from standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

import click

from penstock.errors import JobNotFound
from penstock_cli import textio
from penstock_cli.context import App

#: Ids begin with the time, so that shorter ones would mean all jobs of some minutes.
SHORTEST = 6
#: From so many columns on, a terminal has room for whole ids.
WHOLE_IDS = 120


def each_id(ids: tuple[str, ...]) -> Iterator[str]:
    """The words given, with those that begin the lines of standard input in place of ``-``."""
    for id in ids:
        if id == "-":
            lines = textio.decode(textio.stdin().read(), "standard input").split("\n")
            yield from (line.split()[0] for line in lines if line.strip())
        else:
            yield id


def whole(app: App, word: str) -> str:
    """The id that a word means: itself, or the one id that begins with it. Raises ``JobNotFound`` or ``UsageError``."""
    if _is_whole(word) or len(word) < SHORTEST or not _may_begin(word):
        return word
    found = app.store.ids_from(word.lower(), limit=3)
    if word in found:  # another program's, which another one begins with
        return word
    if len(found) > 1:
        some = ", ".join(found[:2]) + (", …" if len(found) > 2 else "")
        raise click.UsageError(f"{word!r} begins the ids of several jobs ({some}): write more of it.")
    if not found and not app.store.statuses([word]):
        raise JobNotFound(
            f"there is no job whose id begins with {word!r}", fix="`penstock job list` shows the jobs that are kept"
        )
    return found[0] if found else word


def whole_ids(app: App, ids: tuple[str, ...]) -> Iterator[str]:
    """``whole`` for each."""
    return (whole(app, word) for word in each_id(ids))


def only_of_runs(id: str, option: str, *, given: bool = True) -> None:
    """Raise ``UsageError`` where the option was given for a job that is no run."""
    if given:
        raise click.UsageError(f"{option} is for runs of pipelines, and job {id} is none.")


def in_tables(app: App, ids: Iterable[str]) -> dict[str, str]:
    """Each id as a table shows it: on a narrow terminal as much of it as tells it from all others."""
    ids, width = list(ids), app.out.width
    if width is None or width >= WHOLE_IDS or app.out.json or app.out.quiet:
        return {id: id for id in ids}
    return beginnings(ids, app.store.neighbours(ids))


def beginnings(ids: Iterable[str], neighbours: Iterable[str], shortest: int = 13) -> dict[str, str]:
    """Of each id as much as tells it from all ``neighbours``; to the millisecond at least, so that no job that comes
    later begins like it. PURE."""
    order = sorted({*ids, *neighbours})
    places = {id: place for place, id in enumerate(order)}
    short = {}
    for id in ids:
        place = places[id]
        near = [*order[max(0, place - 1) : place], *order[place + 1 : place + 2]]
        length = max([shortest, *(_common(id, other) + 1 for other in near)])
        # Not at a dash: nobody would know whether it belongs to it.
        short[id] = id[: length + (id[length - 1 : length] == "-")]
    return short


def _common(one: str, other: str) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def _is_whole(word: str) -> bool:
    try:
        return str(UUID(word)) == word.lower()
    except ValueError:
        return False


def _may_begin(word: str) -> bool:
    return all(letter in "0123456789abcdef-" for letter in word.lower())
