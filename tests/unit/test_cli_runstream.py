"""What ``penstock run --stream`` prints of a job's events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from penstock_cli.output import Output
from penstock_cli.runstream import follow


@pytest.mark.parametrize(
    ("pieces", "output", "printed"),
    [
        ([(1, "he"), (1, "llo")], {"text": "hello"}, "hello\n"),
        ([(1, 1), (1, 2)], 3, "1\n2\n3\n"),
        ([(1, "at "), (1, 1)], 2, "at \n1\n2\n"),
        ([(1, 1), (2, "a"), (2, "b")], "ab", "1\nab\n"),
        ([], {"a": 1}, '{"a": 1}\n'),
    ],
)
def test_the_output_is_printed_unless_the_pieces_are_it(
    pieces: list[tuple[int, object]], output: object, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [SimpleNamespace(kind="progress", data={"progress": piece, "attempt": n}) for n, piece in pieces]
    job: Any = SimpleNamespace(stream=lambda: iter(events), result=lambda: output)
    app: Any = SimpleNamespace(out=Output())
    assert follow(app, job, raw=False) is None
    assert capsys.readouterr().out == printed
