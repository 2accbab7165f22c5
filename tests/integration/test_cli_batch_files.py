"""``penstock batch run`` destroys no file of its user's: refused before a server is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.cli import Penstock

REQUESTS = '{"custom_id": "a", "body": "hello"}\n'


@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
@pytest.mark.parametrize("name", ["in.jsonl", "link.jsonl", "./in.jsonl"])
def test_the_input_is_not_the_output(penstock: Penstock, flag: str, name: str) -> None:
    (penstock.folder / "in.jsonl").write_text(REQUESTS)
    os.link(penstock.folder / "in.jsonl", penstock.folder / "link.jsonl")
    ended = penstock("batch", "run", "-i", "in.jsonl", "-o", name, "--model", "m", flag)
    assert ended.status == 2
    assert "both input and output" in ended.err
    assert (penstock.folder / "in.jsonl").read_text() == REQUESTS


def test_only_an_earlier_output_is_resumed(penstock: Penstock) -> None:
    (penstock.folder / "in.jsonl").write_text(REQUESTS)
    notes = penstock.folder / "notes.txt"
    notes.write_text("milk\neggs\n")
    ended = penstock("batch", "run", "-i", "in.jsonl", "-o", "notes.txt", "--model", "m", "--resume")
    assert ended.status == 2
    assert "no results" in ended.err
    assert notes.read_text() == "milk\neggs\n"
    assert not Path(f"{notes}.new").exists()


def test_a_folder_is_no_output(penstock: Penstock) -> None:
    ended = penstock("batch", "run", "-i", "-", "-o", ".", "--model", "m", input="1\n")
    assert ended.status == 2
    assert "is a folder" in ended.err
