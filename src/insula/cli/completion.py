"""`insula completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the script that completes commands in your shell.

    Bash: eval "$(insula completion bash)" in ~/.bashrc. Zsh: the same with zsh in ~/.zshrc. Fish: insula completion fish |
    source in config.fish.
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(root.command, {}, "insula", "_INSULA_COMPLETE").source())
