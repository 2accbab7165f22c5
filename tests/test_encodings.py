"""Files and pipes are UTF-8 wherever they are opened: nothing that is not a terminal follows the locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("platform", "workers", "cli", "migrations", "benchmarks", "docs", "examples")

#: What opens text unless told otherwise, and where its mode stands when it is no keyword.
OPENERS = {"open": 0, "fdopen": 1, "read_text": None, "write_text": None, "NamedTemporaryFile": 0}
RUNNERS = {"Popen", "run", "check_output"}
#: Of the same names, and none of Python's files: ``Store.open``, ``self.open()``, ``os.open``, ``ticket.open``.
OTHERS = {"Store", "os", "self", "push", "_inbox", "_own", "_common", "webbrowser", "urllib"}


def faults(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in RUNNERS and words.keys() & {"text", "universal_newlines"}:
            yield node.lineno
        if name not in OPENERS or "encoding" in words or (_owner(node.func) in OTHERS and name == "open"):
            continue
        place = OPENERS[name]
        if isinstance(node.func, ast.Name) and name == "open":
            place = 1
        given = words.get("mode") or (node.args[place] if place is not None and len(node.args) > place else None)
        if not (isinstance(given, ast.Constant) and "b" in str(given.value)):
            yield node.lineno


def _owner(function: ast.expr) -> str:
    value = function.value if isinstance(function, ast.Attribute) else function
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


def test_every_text_has_an_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_what_follows_the_locale_is_found() -> None:
    code = "open('a'); Path('a').open('w'); a.read_text(); os.fdopen(3); subprocess.run(x, text=True); open('a', 'rb')"
    assert len(list(faults(ast.parse(code)))) == 5
