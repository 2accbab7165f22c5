"""Finds the models and pipelines that this process knows.

A source is ``"package.module"`` (all models in it), ``"package.module:Attr"`` (one), or a path to a ``.py`` file.
Installed packages can announce models under the entry point group ``penstock.models``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from penstock import usercode
from penstock.errors import ConfigError, PenstockError, UnknownModel
from penstock.functions import Function
from penstock.model import Model, check_model
from penstock.pipelines.writing.pipeline import Pipeline

ENTRY_POINTS = "penstock.models"

#: Where the code is that a user cannot correct: Python's, that of installed packages, and ours.
_OTHERS = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parent))


class Registry:
    """Model classes by name, and ``pipelines`` by theirs."""

    def __init__(self, models: Iterable[type[Model] | Pipeline] = ()) -> None:
        self._models: dict[str, type[Model]] = {}
        self.pipelines: dict[str, Pipeline] = {}
        for each in models:
            self.add(each)

    @classmethod
    def load(cls, sources: Iterable[str]) -> Registry:
        """Import the sources and the installed entry points; raises ``ConfigError`` naming the one that failed."""
        registry = cls()
        for source in sources:
            with _explained(source):
                for model in _models_of(source):
                    registry.add(model)
        for point in entry_points(group=ENTRY_POINTS):
            for model in _models_of_point(point):
                with _explained(point.value):
                    registry.add(model)
        return registry

    def add(self, model: type[Model] | Pipeline) -> None:
        """Register one; two different ones of one name are a ``ConfigError``."""
        if isinstance(model, Pipeline):
            self._add_pipeline(model)
            return
        check_model(model)
        if model.name in self.pipelines:
            raise _two(model.name, model.__qualname__, self.pipelines[model.name].function.__qualname__)
        other = self._models.setdefault(model.name, model)
        if other is not model and (other.__module__, other.__qualname__) != (
            model.__module__,
            model.__qualname__,
        ):
            raise ConfigError(
                f"two models are named {model.name!r}: {other.__module__}.{other.__qualname__} and "
                f"{model.__module__}.{model.__qualname__}",
                fix="rename one of them",
            )

    def _add_pipeline(self, pipeline: Pipeline) -> None:
        name, function = pipeline.name, pipeline.function
        if name in self._models:
            raise _two(name, function.__qualname__, self._models[name].__qualname__)
        other = self.pipelines.setdefault(name, pipeline).function
        if (other.__module__, other.__qualname__) != (function.__module__, function.__qualname__):
            raise _two(name, function.__qualname__, other.__qualname__)

    def get(self, name: str) -> type[Model]:
        """The class of this name; raises ``UnknownModel`` with a suggestion."""
        try:
            return self._models[name]
        except KeyError:
            raise unknown_model(name, self._models) from None

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[type[Model]]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)


def _two(name: str, one: str, other: str) -> ConfigError:
    return ConfigError(f"both {one} and {other} are named {name!r}", fix="rename one of them")


#: A registry, or what makes one when it is needed.
Source = Registry | Callable[[], Registry]


def are_imported(sources: Iterable[str]) -> bool:
    """Whether ``load`` would import nothing that is not there: what it costs is paid."""
    modules = [source.partition(":")[0] for source in sources]
    modules += [point.module for point in entry_points(group=ENTRY_POINTS)]
    return all((Path(name).stem if name.endswith(".py") else name) in sys.modules for name in modules)


def by_hand(source: str) -> str:
    """What to type to see for oneself what importing a source does."""
    name = source.partition(":")[0]
    return f"python {shlex.quote(name)}" if name.endswith(".py") else f"python -c 'import {name}'"


def unknown_model(name: str, models: Iterable[str], pipelines: Iterable[str] = ()) -> UnknownModel:
    """The error for a name nobody serves, with the nearest known names. ``pipelines`` are those that were possible."""
    pipelines = set(pipelines)
    known = sorted({*models, *pipelines})
    near = get_close_matches(name[:150], known, n=1)
    command = "`penstock pipeline list`" if near and near[0] in pipelines else "`penstock model list`"
    if near:
        fix = f"did you mean {near[0]!r}? {command} shows all"
    elif known:
        fix = f"known: {', '.join(known[:8])}; `penstock model list` shows all"
        fix += " models, `penstock pipeline list` all pipelines" * bool(pipelines)
    else:
        fix = "name the module that defines it: PENSTOCK_MODELS=my_models, or `penstock up my_models`"
    return UnknownModel(f"no model is named {name!r}", fix=fix)


def _models_of_point(point: EntryPoint) -> list[type[Model] | Pipeline]:
    try:
        with _explained(point.value):
            return list(_models_of(point.value))
    except ConfigError as error:
        # The user did not name this module: say who did.
        package = point.dist.name if point.dist is not None else "an installed package"
        raise ConfigError(
            f"{package} announces models (entry point {point.name!r}): {error.message}",
            fix=f"{error.fix}; or uninstall {package}",
        ) from error


def _models_of(source: str) -> Iterator[type[Model] | Pipeline]:
    name, _, attribute = source.partition(":")
    module = _import(name)
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, Function):
            found = found.model
        if not (isinstance(found, Pipeline) or (inspect.isclass(found) and issubclass(found, Model))):
            raise ConfigError(f"{source!r} is not a penstock model", fix="name a subclass of penstock.Model")
        yield found
        return
    count = 0
    for value in vars(module).values():
        # Imported helpers and abstract bases have no name of their own; they are not served.
        is_model = inspect.isclass(value) and issubclass(value, Model)
        if isinstance(value, Function):
            count += 1
            yield value.model
        elif isinstance(value, Pipeline) or (is_model and value.name and value.predict is not Model.predict):
            count += 1
            yield value
    if not count:
        raise ConfigError(f"{source!r} defines no penstock model", fix="subclass penstock.Model and set its name")


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _import_file(Path(name))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # As celery, uvicorn and gunicorn do: a model beside the user's shell is importable.
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Whatever code of the user's raises in the block is a ``ConfigError`` that names the source."""
    try:
        yield
    except ConfigError:
        raise
    except PenstockError as error:
        raise ConfigError(f"cannot import {source!r}: {error.message} ({_place(error)})", fix=error.fix) from error
    except BaseException as error:
        if not usercode.is_its_own(error):
            raise
        name = source.partition(":")[0]
        place = ""
        if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
            fix = f"check the spelling, or run where {name!r} can be imported (its folder on PYTHONPATH)"
        elif isinstance(error, SystemExit):
            fix = f'take the call of exit() out of it, or put it under `if __name__ == "__main__":` ({_place(error)})'
        else:
            fix = f"`{by_hand(source)}` shows the whole traceback"
            place = "" if isinstance(error, SyntaxError) else f" ({_place(error)})"  # which says its own
        raise ConfigError(f"cannot import {source!r}: {usercode.told(error)}{place}", fix=fix) from error


def _place(error: BaseException) -> str:
    """Where in the user's code it was raised, as far as that was in a file of Python."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    lines = [frame for frame in frames if not frame.filename.startswith(_OTHERS)] or frames
    return f"{lines[-1].filename}:{lines[-1].lineno}" if lines else "somewhere in it"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no such file: {path}", fix="give the path of the Python file that defines the model")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"cannot import {path}", fix="give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
