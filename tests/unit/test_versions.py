"""Mixed versions and mixed code, and what a producer makes of ``name@version``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.dispatch.catalog import Target
from penstock.dispatch.service import digest
from penstock.errors import ConfigError, InvalidInput
from penstock.model import Model, check_model
from penstock.policy.sharing import Line, Shares, Standing
from penstock.policy.versions import Served, by_version, warnings
from penstock.registry import Registry
from penstock_worker.models.loader import announce
from tests.fixtures.versioned import write


def served(worker: str, version: str = "1", **info: Any) -> Served:
    return Served(worker, {"version": version, "code": "c", "schema": {}} | info)


def test_one_version_of_one_code_is_no_reason_to_warn() -> None:
    workers = [served("a"), served("b"), served("old", code=None)]
    assert by_version(workers) == {"1": ["a", "b", "old"]}
    assert warnings("embed", workers) == []


@pytest.mark.parametrize("other", [{"code": "d"}, {"schema": {"type": "string"}}], ids=str)
def test_the_same_version_of_another_code_is_told(other: dict[str, Any]) -> None:
    (warning,) = warnings("embed", [served("a"), served("b"), served("c", **other)])
    assert warning == "embed@1 is not the same code on all workers: a, b / c"


def test_several_versions_are_told_with_some_of_their_workers() -> None:
    (warning,) = warnings("embed", [served(f"w{n}") for n in range(5)] + [served("x", "2")])
    assert warning == "jobs for 'embed' without a version run on any of 1 (w0, w1, w2 and 2 more), 2 (x)"


def test_code_is_the_same_wherever_it_lies_and_another_when_it_was_edited(tmp_path: Path) -> None:
    def code(folder: str, note: str = "") -> str:
        (tmp_path / folder).mkdir()
        path = Path(write(tmp_path / folder, "1"))
        path = path.rename(path.with_name(f"which_{folder}.py"))
        path.write_text(path.read_text() + note)
        registry = Registry.load([str(path)])
        info = announce({"which": registry.get("which")})["which"]
        return str(info["code"])

    assert code("here") == code("there") != code("edited", "# edited\n")


@pytest.mark.parametrize("version", ["", 2, None, "a\nb", "x" * 129, b"1"])
def test_a_version_that_cannot_be_asked_for_is_refused(version: Any) -> None:
    class Odd(Model):
        name = "odd"

        def predict(self, batch: list[int]) -> list[int]:
            return batch

    Odd.version = version
    with pytest.raises(ConfigError, match="version") as caught:
        check_model(Odd)
    assert "version =" in caught.value.fix


def test_a_digest_is_of_what_was_asked_for() -> None:
    embed = Target("embed", info={"version": "1"})
    assert digest(embed, "1") == digest(Target("embed", info={"version": "2"}), "1")
    assert len({digest(target, "1") for target in (embed, Target("embed", "1"), Target("embed", "2"))}) == 3


def test_a_queue_that_stands_beside_counts_by_its_part() -> None:
    own = Line({"a": Standing((1, 0, 0, 0), weight=2.0)}, 1)
    other = Line({"a": Standing((4, 0, 0, 2), weight=2.0), "b": Standing((10, 0, 0, 0))}, 2)
    line = own.beside(other, 0.5)
    assert line.standings == {"a": Standing((3, 0, 0, 1), weight=2.0), "b": Standing((5, 0, 0, 0))}
    assert Shares(line.standings, busy=line.busy).total == 9


def test_no_version_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.dispatch.catalog import _check_version

    for version in ("", "a\0b", "x" * 200):
        with pytest.raises(InvalidInput, match="no version of model"):
            _check_version("embed", version)
