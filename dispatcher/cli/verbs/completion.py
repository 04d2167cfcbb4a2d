"""`dispatcher completion`: lines that make a shell complete what is typed."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from dispatcher.cli.options import examples


@click.command(
    epilog=examples(
        'eval "$(dispatcher completion bash)"    # in ~/.bashrc',
        'eval "$(dispatcher completion zsh)"     # in ~/.zshrc, after compinit',
        "dispatcher completion fish > ~/.config/fish/completions/dispatcher.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the lines that let a shell complete verbs, options, states, queues and task ids."""
    kind = get_completion_class(shell)
    assert kind is not None
    asked = kind(click.Command("dispatcher"), {}, "dispatcher", "_DISPATCHER_COMPLETE")
    # Not the method of its own: bash's runs a bash to see how old it is.
    click.echo(ShellComplete.source(asked).strip("\n"))
