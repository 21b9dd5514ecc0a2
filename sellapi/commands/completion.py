"""``sellapi completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sellapi.commands.common import Out, command


@command(
    None,
    "completion",
    example='eval "$(sellapi completion bash)"\n'
    "sellapi completion fish > ~/.config/fish/completions/sellapi.fish",
)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(out: Out, shell: str) -> None:
    """Print a shell's completion script."""
    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    script = found(root, {}, "sellapi", "_SELLAPI_COMPLETE").source()
    if out.as_json:
        out.json({"shell": shell, "script": script})
    else:
        click.echo(script)
