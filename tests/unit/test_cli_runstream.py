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


@pytest.mark.parametrize(
    ("pieces", "output", "printed", "said"),
    [
        ([("draft", 1, "he"), ("draft", 1, "llo")], "hello", "hello\n", "step draft:\n"),
        ([("draft", 1, "he")], {"n": 2}, 'he\n{"n": 2}\n', "step draft:\n"),
        ([("a", 1, "x"), ("b", 1, "y"), ("a", 1, "z")], "xz", 'x\ny\nz\n"xz"\n', "step a:\nstep b:\nstep a:\n"),
        ([("a", 1, "x"), ("a", 2, "y")], "y", "x\ny\n", "step a:\nattempt 2: it begins anew\n"),
    ],
)
def test_of_a_run_it_is_said_which_step_is_heard(
    pieces: list[tuple[str, int, object]], output: object, printed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        SimpleNamespace(kind="progress", data={"progress": piece, "attempt": n, "step": step})
        for step, n, piece in pieces
    ]
    job: Any = SimpleNamespace(stream=lambda: iter(events), result=lambda: output)
    app: Any = SimpleNamespace(out=Output())
    assert follow(app, job, raw=False) is None
    assert capsys.readouterr() == (printed, said)
