"""`dispatcher completion`: lines that make a shell complete what is typed."""

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
    """Print lines that make a shell complete verbs, options, states, queues and task ids."""
    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(click.Command("dispatcher"), {}, "dispatcher", "_DISPATCHER_COMPLETE")
    # The base class's method: bash's own would start a bash to learn its version.
    click.echo(ShellComplete.source(complete).strip("\n"))
