"""Write docs/cli.md from the commands themselves: `python tools/cli_docs.py`.

A test writes it anew and compares, so the page never says what the command does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli import COMMANDS, cli  # noqa: E402

PAGE = ROOT / "docs" / "cli.md"
HEAD = """\
# The command line

Written by `python tools/cli_docs.py` from the commands themselves; a test holds it to them.

`sellapi NOUN VERB`. Tables go to stdout, trouble goes to stderr. With `--json` a command prints one
JSON document with stable field names (`requests tail --follow`: one a line), credits and dollars as
decimal strings, times in UTC; `list` is an array of what `show` prints; errors are JSON on stderr.

| exit code | means |
|---|---|
| 0 | done |
| 1 | refused; the message says why and what to do |
| 2 | words that make no sense; the message points at `--help` |

What destroys asks first on a terminal; elsewhere it wants `--yes`. The same act with the same
`--reference` changes nothing and says so. Every command but `tui` takes `--json`, and all take
`--database PATH` (otherwise `SELLAPI_DATABASE`, then `sellapi.toml`, then `./sellapi.db`). Where an
EMAIL is wanted, a user's id does too. Tables show more columns where there is room for them:
`COLUMNS=200 sellapi …`.
"""
_EVERYWHERE = {"as_json", "database", "help"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _parameter(parameter: click.Parameter, context: click.Context) -> str | None:
    """A row of a command's table; None for what every command takes."""
    if parameter.name in _EVERYWHERE:
        return None
    if isinstance(parameter, click.Option):
        record = parameter.get_help_record(context)
        assert record is not None
        name, text = record
        needed = " Required." if parameter.required and "required" not in text else ""
        return f"| `{_cell(name)}` | {_cell(text)}{needed} |"
    return None  # an argument says what it is in the line of usage


def _command(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"### `{words}`"
    yield ""
    text, _, example = (command.help or "").partition("\b")
    yield " ".join(text.split())
    yield ""
    rows = [row for p in command.params if (row := _parameter(p, context))]
    if rows:
        yield from ("| | |", "|---|---|", *rows, "")
    yield "```console"
    yield f"{words} {usage}".strip()
    for line in (command.epilog or example).replace("\b", "").splitlines():
        if line.strip() and not line.strip().startswith("Example"):
            yield f"$ {line.strip()}"
    yield from ("```", "")


def page() -> str:
    """The whole page as it should be."""
    lines = [HEAD]
    root = click.Context(cli, info_name="sellapi")
    for noun, (_, text) in COMMANDS.items():
        command = cli.get_command(root, noun)
        assert command is not None
        lines += [f"## {noun}", "", text, ""]
        if isinstance(command, click.Group):
            for verb, found in command.commands.items():
                lines += _command(f"sellapi {noun} {verb}", found)
        else:
            lines += _command(f"sellapi {noun}", command)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
