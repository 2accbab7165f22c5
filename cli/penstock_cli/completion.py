"""``penstock completion``: shell completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App

_HOW = {
    "bash": 'eval "$(penstock completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(penstock completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "penstock completion fish > ~/.config/fish/completions/penstock.fish",
}


@verb()
@click.argument("shell", type=click.Choice(sorted(_HOW)))
@pass_app
def command(app: App, shell: str) -> None:
    """Print the completion script for a shell.

    \b
      bash:  eval "$(penstock completion bash)"    in ~/.bashrc
      zsh:   eval "$(penstock completion zsh)"     in ~/.zshrc, after compinit
      fish:  penstock completion fish > ~/.config/fish/completions/penstock.fish
    """
    from penstock_cli.main import cli
    from penstock_cli.output import is_terminal

    found = get_completion_class(shell)
    assert found is not None  # click has all three
    script = found(cli, {}, "penstock", "_PENSTOCK_COMPLETE").source()
    if app.out.json:
        app.out.data({"shell": shell, "script": script})
        return
    app.out.line(script)
    import sys

    if is_terminal(sys.stdout):
        app.out.say(f"use it so: {_HOW[shell]}")
