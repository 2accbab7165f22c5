"""Weights that are mapped into memory, not read: the kernel brings pages as they are used, and processes share them.

Nothing here copies a tensor. Large copies start the threads of OpenMP, and a process that has those cannot be forked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import torch


def mapped(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Tensors by name of a file that ``torch.save`` (of a state dict) or safetensors has written, mapped.

    What is written into one of them is this process's own. The file must stay as it is for as long as it is used:
    replace it by renaming another one over it. Raises ``ConfigError``, which names the file.
    """
    file = Path(fspath(path))
    if not file.is_file():
        raise ConfigError(f"there is no file of weights {file}", fix="give its path, for example next to __file__")
    try:
        return _safetensors(file) if file.suffix == ".safetensors" else _saved(file)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the weights {file} cannot be mapped: {error}",
            fix="write them with torch.save(module.state_dict(), PATH), or as .safetensors",
        ) from error


def _saved(file: Path) -> dict[str, torch.Tensor]:
    import torch

    found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"the weights {file} are a {type(found).__name__}, and not tensors by name",
            fix="write them with torch.save(module.state_dict(), PATH)",
        )
    return dict(found)


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError as error:
        raise ConfigError(f"the weights {file} need safetensors", fix="pip install safetensors") from error
    with safe_open(file, framework="pt", device="cpu") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules that are built in the block have parameters without memory, so that nothing fills them in vain.

    Their buffers are real: some are computed where the module is built, and are in no file.
    """
    import torch

    register = torch.nn.Module.register_parameter

    def register_unfilled(module: torch.nn.Module, name: str, parameter: Any) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:  # one that is tied to another has been here
            kind: Any = type(parameter)
            module._parameters[name] = kind(parameter.to("meta"), requires_grad=parameter.requires_grad)

    torch.nn.Module.register_parameter = register_unfilled  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def assign(module: torch.nn.Module, tensors: Mapping[str, Any], *, of: str) -> torch.nn.Module:
    """The module with these tensors for its parameters and buffers: themselves, no copies. Raises ``ConfigError``."""
    try:
        module.load_state_dict(dict(tensors), strict=True, assign=True)
    except RuntimeError as error:
        raise ConfigError(
            f"the weights of {of} do not fit what build() makes: {error}", fix="mend one of the two"
        ) from error
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ConfigError(
                f"{name} of {of} has no value: it is in no file, and build() made none",
                fix="register it as a buffer that is computed in build(), or write it into the file",
            )
        tensor.requires_grad_(False)
    return module
