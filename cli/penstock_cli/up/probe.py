"""Looks at the models in a process of its own.

``penstock up`` lives for days: it does not import the users' modules (nor torch with them), it asks a child that is
gone a moment later.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from penstock import usercode
from penstock.clock import monotonic_s
from penstock.errors import ConfigError
from penstock.policy.pools import Pool, Want, place
from penstock.processes.lean import without_rich

#: How long the import of the models may take, seconds.
TIMEOUT_S = 120.0
#: How often a wait is interrupted to look whether it should end, seconds.
LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What ``up`` must know of a model or a function. ``example`` is JSON text, ``None`` when it has none."""

    name: str
    pool: str
    doc: str
    example: str | None
    function: bool = False
    #: Bytes of device memory, if it says.
    memory: int | None = None
    #: What a worker would announce of it, in the pool that it names itself.
    info: dict[str, Any] = field(default_factory=dict)


class Found(NamedTuple):
    """What modules define. Of ``pipelines`` what a worker would announce, by name."""

    models: list[ModelInfo]
    pipelines: dict[str, dict[str, Any]]


def placed(models: Sequence[ModelInfo], pools: Mapping[str, Pool]) -> tuple[list[ModelInfo], list[str]]:
    """The models in the pools where the settings put them, and of those that no pool can hold why. PURE."""
    found, faults = [], []
    for model in models:
        where = place(Want(name=model.name, pool=model.pool, memory=model.memory), pools)
        if where.fault:
            faults.append(f"model {model.name!r} is not served: {where.fault}")
        else:
            found.append(replace(model, pool=where.pool))
    return found, faults


class Probe:
    """A look that has been started; ``result()`` waits for it."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._modules = list(modules)
        self._process = subprocess.Popen(
            # Not with -m: the package imports this module, and Python would warn of it.
            [sys.executable, "-c", "from penstock_cli.up.probe import main; main()", *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # a module prints what it likes
            env=dict(env),
        )

    def result(self, check: Callable[[], None] = lambda: None) -> Found:
        """What they define; raises ``ConfigError`` for what cannot be imported, and whatever ``check`` raises."""
        out, err = self._communicate(check)
        try:
            # The last line: a module may print while it is imported.
            answer: dict[str, Any] = json.loads(out.rstrip().rsplit("\n", 1)[-1])
        except ValueError:
            last = err.strip().splitlines()[-1:] or [f"exit status {self._process.returncode}"]
            raise ConfigError(
                f"importing {', '.join(self._modules) or 'the models'} ended the process: {last[0]}",
                fix=f"`python -c 'import {(self._modules or ['…'])[0]}'` shows why; "
                "a module that defines models must not end the process",
            ) from None
        if "error" in answer:
            raise ConfigError(answer["error"], fix=answer["fix"])
        return Found([ModelInfo(**model) for model in answer["models"]], answer["pipelines"])

    def _communicate(self, check: Callable[[], None]) -> tuple[str, str]:
        until = monotonic_s() + TIMEOUT_S
        while monotonic_s() < until:
            check()
            with suppress(subprocess.TimeoutExpired):
                return self._process.communicate(timeout=LOOK_S)
        self.close()
        raise ConfigError(
            f"importing the models took longer than {TIMEOUT_S:g} s",
            fix="load weights in load(), not when the module is imported",
        )

    def close(self) -> None:
        """Give up, if it still runs. Can be called again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def look(modules: Sequence[str]) -> Found:
    """Import the modules and describe their models, in this process."""
    from penstock.codec import codec_of
    from penstock.pipelines.announced import announcement
    from penstock.registry import Registry

    with without_rich():
        from penstock_worker.models.loader import announce

    registry = Registry.load(modules)
    infos = announce({cls.name: cls for cls in registry})
    models = [
        ModelInfo(
            name=cls.name,
            pool=cls.resources.pool,
            doc=cls.describe(),
            example=_example(cls, codec_of(cls).schema()),
            function=hasattr(cls, "of_function"),
            memory=cls.resources.memory_bytes,
            info=infos[cls.name],
        )
        for cls in registry
    ]
    return Found(models, {name: announcement(each) for name, each in registry.pipelines.items()})


def _example(cls: Any, schema: Mapping[str, Any]) -> str | None:
    from pydantic_core import to_json

    try:
        example = cls().example()
        if example is not NotImplemented:
            return to_json(example).decode()
    except BaseException as error:  # it may need what load() brings: the schema will do
        if not usercode.is_its_own(error):
            raise
    guess = sample_of(schema)
    return None if guess is None else json.dumps(guess)


def sample_of(schema: Mapping[str, Any]) -> Any:
    """A value that fits a simple JSON schema, ``None`` when that cannot be guessed."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("examples"):
        return schema["examples"][0]
    match schema.get("type"):
        case "string" if not {"format", "pattern", "minLength"} & schema.keys():
            return "hello"
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "array":
            item = sample_of(schema.get("items", {}))
            return None if item is None else [item]
        case "object":
            properties = schema.get("properties", {})
            wanted = {name: sample_of(properties.get(name, {})) for name in schema.get("required", ())}
            return None if None in wanted.values() or not wanted else wanted
    return None


def main() -> None:
    """Print the answer as the last line of standard output."""
    from dataclasses import asdict

    from penstock.errors import PenstockError

    answer: dict[str, Any]
    try:
        found = look(sys.argv[1:])
        answer = {"models": [asdict(model) for model in found.models], "pipelines": found.pipelines}
    except PenstockError as error:
        answer = {"error": error.message, "fix": error.fix}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main()
