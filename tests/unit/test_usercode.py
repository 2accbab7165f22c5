"""What a user's code raises is an error that names it, whatever it raises; what a signal raises is not its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from penstock import Model, registry, usercode
from penstock.codec import codec_of
from penstock.errors import ConfigError, InvalidInput, ModelLoadFailed
from penstock.registry import Registry, by_hand
from penstock_cli import services
from penstock_cli.services import Signals
from penstock_cli.up.probe import Probe
from penstock_worker.models.loader import load_model
from tests.fixtures.cli import Penstock

#: Ways to leave that are no ``Exception``, and one that is.
WAYS = (
    "exit()",
    "exit(0)",
    "raise SystemExit",
    "import sys; sys.exit('bye')",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "raise type('Panic', (BaseException,), {})('panicked')",
    "1 / 0",
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(text: str) -> str:
        name = f"leaving_{abs(hash(text))}"
        (tmp_path / f"{name}.py").write_text(f"from penstock import Model\n{text}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return make


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_ends_the_program_is_named(module: Callable[[str], str], way: str, tmp_path: Path) -> None:
    name = module(way)
    for source in (name, f"{name}:Attr", str(tmp_path / f"{name}.py")):
        with pytest.raises(ConfigError) as caught:
            Registry.load([source])
        assert source in caught.value.message and caught.value.fix
        if "xit" in way and "Generator" not in way:
            assert f"{name}.py:2" in caught.value.fix and "__main__" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("def f():\n    import json; json.loads('x')\nf()", 3, "Expecting value"),  # raised in Python's own files
        ("import penstock\n@penstock.pipeline\ndef p(x): return x if x else 1\n", 4, "penstock.when"),  # and in ours
        (
            "import penstock\n@penstock.step\ndef s(a): return a\n@penstock.pipeline\ndef p(x): return s()\n",
            6,
            "step 's': missing a required argument: 'a'; its arguments: (a)",
        ),
    ],
)
def test_the_line_of_the_module_is_told(module: Callable[[str], str], text: str, line: int, words: str) -> None:
    name = module(text)
    with pytest.raises(ConfigError) as caught:
        Registry.load([name])
    assert words in caught.value.message and f"{name}.py:{line})" in caught.value.message


def test_what_is_wrong_with_a_pipeline_keeps_its_fix(module: Callable[[str], str]) -> None:
    name = module("import penstock\n@penstock.pipeline\ndef p(größe): return größe\n")
    with pytest.raises(ConfigError) as caught:
        Registry.load([name])
    assert "no name of an input" in caught.value.message and f"{name}.py:3)" in caught.value.message
    assert caught.value.fix.startswith("use letters")


@pytest.mark.parametrize("way", ["raise SystemExit", "raise KeyboardInterrupt"])
@pytest.mark.parametrize(
    "text",
    [
        "def __getattr__(name):\n    {way}",
        "class Meta(type):\n    @property\n    def name(cls):\n        {way}\nclass M(Model, metaclass=Meta): pass",
        "class M(Model):\n    name = 'm'\n    @classmethod\n    def unwritten(cls):\n        {way}\n"
        "    def predict(self, batch): return batch",
    ],
)
def test_hooks_in_a_module_are_its_own_too(module: Callable[[str], str], text: str, way: str) -> None:
    name = module(text.format(way=way))
    with pytest.raises(ConfigError, match=name):
        Registry.load([f"{name}:M"] if "__getattr__" in text else [name])


def test_an_entry_point_names_its_package(module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", module("exit()"), registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ConfigError, match="entry point 'theirs'"):
        Registry.load([])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["load", "example", "predict"])
def test_a_model_that_ends_the_program_does_not_load(way: str, place: str) -> None:
    def leave(self: Any, *_: Any) -> Any:
        exec(way)

    methods = {"predict": lambda self, batch: batch, "example": lambda self: 1, place: leave}
    cls: Any = type("M", (Model,), {"name": "leaver", **methods})
    with pytest.raises(ModelLoadFailed, match="'leaver'"):
        load_model(cls, "cpu")


class Leaves:
    """A type of items whose definition ends the program."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise SystemExit(0)


class Refuses:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def check(value: Any) -> Any:
            raise SystemExit

        return core_schema.no_info_plain_validator_function(check)


def test_an_item_type_that_ends_the_program_is_named() -> None:
    class Defined(Model):
        name = "defined"

        def predict(self, batch: list[Leaves]) -> list[int]:
            return []

    class Checked(Model):
        name = "checked"

        def predict(self, batch: list[Refuses]) -> list[int]:
            return []

    for call in (lambda: codec_of(Defined).validate(1), lambda: codec_of(Defined).schema()):
        with pytest.raises(ConfigError, match="'defined'"):
            call()
    with pytest.raises(InvalidInput, match="'checked'"):
        codec_of(Checked).validate(1)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("handler", ["default", "python", "method"])
def test_a_signal_is_let_through(handler: str, module: Callable[[str], str]) -> None:
    """Ctrl-C while a module is imported, and a program's own handler."""

    class Handler:
        def handle(self, *_: Any) -> None:
            raise Stop

    def handle(*_: Any) -> None:
        raise Stop

    handlers: dict[str, Any] = {"default": signal.default_int_handler, "python": handle, "method": Handler().handle}
    old = signal.signal(signal.SIGINT, handlers[handler])
    try:
        name = module("import signal\nsignal.raise_signal(signal.SIGINT)\nfor _ in range(10**6): pass")
        with pytest.raises(KeyboardInterrupt if handler == "default" else Stop):
            Registry.load([name])
    finally:
        signal.signal(signal.SIGINT, old)


def test_the_text_of_an_end() -> None:
    assert usercode.told(SystemExit(3)) == "SystemExit (it calls exit()): 3"
    assert usercode.told(SystemExit()) == "SystemExit (it calls exit())"


@pytest.mark.parametrize("command", ["worker", "doctor"])
def test_commands_say_so_and_fail(penstock: Penstock, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fixtures.cli.OWN_PROCESS", ())
    (penstock.folder / "leaving.py").write_text("exit()\n")
    env = {"PENSTOCK_MODELS": "leaving"}
    if command == "doctor":
        ended = penstock("doctor", env=env)
        assert ended.status != 0
        assert "cannot import 'leaving'" in ended.out
    else:
        from penstock.settings import Settings
        from penstock_worker.app import build

        monkeypatch.syspath_prepend(str(penstock.folder))
        with pytest.raises(ConfigError, match="leaving"):
            build(Settings(home=penstock.home, models=["leaving"]))


@pytest.mark.parametrize(
    "text, told",
    [("os._exit(0)", "exit status 0"), ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL")],
)
def test_a_module_that_ends_the_process_for_good_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "gone.py").write_text(f"import os, signal\n{text}\n")
    probe = Probe(["gone"], {**os.environ, "PYTHONPATH": str(tmp_path)})
    with pytest.raises(ConfigError, match=f"importing gone ended the process: {told}") as caught:
        probe.result()
    assert "`python -c 'import gone'`" in caught.value.fix


def test_what_stops_both_of_us_is_not_the_fault_of_a_module(tmp_path: Path) -> None:
    """Ctrl-C, or SIGTERM to all of a service's processes."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\nfor process in (os.getppid(), os.getpid()): os.kill(process, signal.SIGTERM)\n"
    )
    with Signals() as signals:
        probe = Probe(["slow"], {**os.environ, "PYTHONPATH": str(tmp_path)})
        with pytest.raises(services.Stop):
            probe.result(signals.check)


@pytest.mark.parametrize(
    "source, typed",
    [
        ("my.models", "python -c 'import my.models'"),
        ("my.models:Embed", "python -c 'import my.models'"),
        ("a folder/my.py", "python 'a folder/my.py'"),
        ("my.py:Embed", "python my.py"),
    ],
)
def test_how_to_see_what_importing_a_source_does(source: str, typed: str) -> None:
    assert by_hand(source) == typed
