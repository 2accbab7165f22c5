"""``docs/cli.md`` knows every command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

from penstock_cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def groups(group: click.Group, path: str) -> Iterator[tuple[str, click.Group]]:
    yield path, group
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            if isinstance(command := group.get_command(ctx, name), click.Group):
                yield from groups(command, f"{path} {name}")


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command


def test_every_command_is_on_the_page_and_says_what_it_does() -> None:
    page = PAGE.read_text()
    found = dict(commands(cli, "penstock"))
    assert len(found) > 25
    assert [path for path in found if path not in page] == []
    assert [path for path, command in found.items() if not (command.help or "").strip()] == []


def test_no_line_about_a_command_is_cut_at_80_columns() -> None:
    found = dict(groups(cli, "penstock"))
    assert len(found) > 10
    cut = [
        f"{path}: {line}"
        for path, group in found.items()
        for line in group.get_help(click.Context(group, terminal_width=80)).splitlines()
        if line.endswith("...") and not line.startswith("Usage: ")
    ]
    assert cut == []


def test_every_option_has_a_help_text() -> None:
    bare = [
        f"{path} {option.opts[0]}"
        for path, command in commands(cli, "penstock")
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert bare == []


def test_the_pipeline_of_the_readme_is_given_its_inputs() -> None:
    signature = re.search(r"def answer\((.*?)\)", (PAGE.parents[1] / "README.md").read_text())
    assert signature
    wanted = set(re.findall(r"(\w+):", signature[1]))
    given = re.findall(r"'(\{\"question\".*?\})'", PAGE.read_text(), re.DOTALL)
    assert len(given) == 2
    assert [json.loads(each).keys() for each in given] == [wanted, wanted]
