"""The documentation says what is true: links lead somewhere, generated pages are current, code parses."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """A page's headings as GitHub names them."""
    text = BLOCK.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in HEADING.findall(text)}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text()):
            if found == language:
                yield str(page.relative_to(ROOT)), text


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue  # the web changes without us
        path = (page.parent / target) if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_settings_page_is_current() -> None:
    """``make docs`` writes it."""
    spec = importlib.util.spec_from_file_location("gen_settings", ROOT / "docs" / "gen_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.render()


def test_every_setting_says_what_it_is() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert re.findall(r"^\| `([\w.]+)` .*\|  \|$", page, re.MULTILINE) == []


@pytest.mark.parametrize(("page", "code"), [pytest.param(*block, id=block[0]) for block in blocks("python")])
def test_python_parses(page: str, code: str) -> None:
    ast.parse(code, page)


@pytest.mark.parametrize(("page", "text"), [pytest.param(*block, id=block[0]) for block in blocks("toml")])
def test_settings_files_are_accepted(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``penstock.toml`` that a page shows is a valid one."""
    tomllib.loads(text)
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    monkeypatch.setenv("PENSTOCK_CONFIG", str(path))
    assert Settings.load()


def test_commands_that_pages_name_exist() -> None:
    """``penstock job prune`` in prose, ``$ penstock run …`` in a block: the command is there."""
    import click

    from penstock_cli.main import cli

    missing = set()
    for page in PAGES:
        text = page.read_text()
        typed = "".join(code for language, code in BLOCK.findall(text) if language in ("sh", "console"))
        named = re.findall(r"`penstock ([a-z][a-z |-]*)", BLOCK.sub("", text))
        for line in named + re.findall(r"^(?:\$ )?penstock ([a-z][a-z |-]*)", typed, re.MULTILINE):
            command: click.Command | None = cli
            for word in line.split():
                if not isinstance(command, click.Group):
                    break
                command = command.get_command(click.Context(command), word.split("|")[0])
                if command is None:
                    missing.add(f"{page.relative_to(ROOT)}: penstock {line.strip()}")
                    break
    assert missing == set()


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name.split("-")[0] for path in (ROOT / "docs" / "decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers))
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert path.read_text().startswith(f"# {path.name.split('-')[0]}: "), path.name


def test_makefile_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named <= targets


def test_nobody_is_sent_to_a_foreign_package() -> None:
    """The package index has a penstock that is not ours: an extra is installed from the checkout."""
    for path in [*PAGES, *(ROOT / "cli").rglob("*.py")]:
        assert "pip install 'penstock" not in path.read_text(), path
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"install\([\"'](\w+)[\"']\)", "".join(p.read_text() for p in (ROOT / "cli").rglob("*.py"))))
    assert {"worker", "dashboard", "all"} <= named <= set(extras)
