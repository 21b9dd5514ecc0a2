"""What every command shares: ``--json``, ``--database``, the admin service, printing, asking."""

from __future__ import annotations

import csv
import functools
import getpass
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from sellapi.commands.lazy import as_document
from sellapi.errors import Refused, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from sellapi.admin import Admin

__all__ = ["ROW_ID", "Out", "actor", "command", "group", "none_of", "on_terminal"]

ROW_ID = click.IntRange(1, 2**63 - 1)
"""The number of a key or an entry: what a database can count to."""

WIDE = 200
"""Characters across of a table that goes into a file or a pipe (unless COLUMNS says otherwise)."""
LONG = 500
"""Rows from which on a table is plain lines: laying out thousands takes seconds, and who asks for
so many filters them."""
ROOM = 120
"""From here on tables show their wide columns."""


def none_of(filters: Mapping[str, object], empty: str) -> str:
    """What an empty list says: nothing there yet, or nothing like what was asked for."""
    asked = any(value for name, value in filters.items() if name != "limit")
    return "nothing matches" if asked else empty


def on_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at the other end; a stream that was closed is None."""
    return stream is not None and stream.isatty()


def actor() -> str:
    """Who acts, for the audit."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.geteuid()}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {name}" if sudo and sudo != name else name


class Out:
    """A command's way out, and its way to the admin service."""

    def __init__(self, *, as_json: bool, database: str | None) -> None:
        self.as_json = as_json
        self._flag = database
        self._admin: Admin | None = None

    @functools.cached_property
    def path(self) -> str:
        """The database's path: flag, environment, sellapi.toml."""
        from sellapi.settings import Settings

        return Settings.load({"database": self._flag}).database

    @property
    def admin(self) -> Admin:
        """The admin service on the existing database; refuses another user's."""
        if self._admin is None:
            from sellapi.admin import Admin
            from sellapi.storage.database import Database

            database = Database.open(self.path)
            self._admin = Admin(database, actor=actor(), via="cli", env=os.environ)
        return self._admin

    def close(self) -> None:
        if self._admin is not None:
            self._admin.desk.database.close()

    # -- printing ------------------------------------------------------------------------------

    def json(self, value: Any) -> None:
        """One JSON document."""
        click.echo(as_document(value, sys.stdout, indent=2))

    def one(self, view: Any, *, headline: str = "") -> None:
        """One object: a JSON object, or its fields below each other."""
        from sellapi.admin import to_json

        data = to_json(view)
        if self.as_json:
            self.json(data)
            return
        if headline:
            click.echo(headline)
        self.pairs(data)

    def pairs(self, data: dict[str, Any]) -> None:
        """Names and values below each other; empty ones left out."""
        table = _grid()
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in data.items():
            if value not in (None, "", [], {}):
                table.add_row(name.replace("_", " "), _cell(value))
        _print(table)

    def many(
        self,
        views: Sequence[Any],
        columns: Sequence[str],
        *,
        empty: str,
        wide: Sequence[str] = (),
        cells: Mapping[str, Callable[[dict[str, Any]], object]] | None = None,
    ) -> None:
        """A list: a JSON array of whole objects, or a table of some columns.

        ``wide`` columns are shown besides where there is room for them; ``cells`` makes a column's
        text from the row, a tuple its lines.
        """
        from sellapi.admin import to_json

        rows = to_json(tuple(views))
        if self.as_json:
            self.json(rows)
        elif not rows:
            click.echo(empty)
        else:
            for name, text in (cells or {}).items():
                rows = [{**row, name: text(row)} for row in rows]
            self.table(rows, [*columns, *wide] if has_room() else columns)

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """A table of JSON-ready rows; numbers stand right."""
        from rich import box
        from rich.table import Table

        if len(rows) > LONG:
            click.echo("\n".join(_plain(rows, columns)))
            return
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name in columns:
            numeric = all(_is_number(row[name]) for row in rows if row[name] is not None)
            # A number or a name broken in two is misread: rather the texts beside it are folded.
            table.add_column(
                name.replace("_", " "),
                justify="right" if numeric else "left",
                overflow="fold",
                no_wrap=numeric or name in _WHOLE,
            )
        for row in rows:
            table.add_row(*(_cell(row[name]) for name in columns))
        _print(table)

    def checks(self, checks: Sequence[tuple[bool, str, str, str]]) -> None:
        """``(ok, name, detail, mend)`` each; a mend stands below what it mends."""
        from rich.text import Text

        from sellapi.admin import clean

        table = _grid()
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for ok, name, detail, mend in checks:
            mark = Text("ok", "green") if ok else Text("mend", "bold red")
            table.add_row(mark, Text(clean(name)), Text(clean(detail)))
            if not ok:
                table.add_row("", "", Text(f"→ {clean(mend)}", "bold"))
        _print(table)

    def line(self, view: Any, text: Callable[[dict[str, Any]], str]) -> None:
        """One line of something that goes on: a JSON document, or a text."""
        from sellapi.admin import clean, to_json

        data = to_json(view)
        if self.as_json:
            click.echo(as_document(data, sys.stdout))
        else:
            click.echo(clean(text(data)))

    def note(self, text: str) -> None:
        """A remark on stderr, with ``--json`` too."""
        click.echo(json.dumps({"note": text}) if self.as_json else f"Note: {text}", err=True)

    def more(self, following: object, limit: int) -> None:
        """Say that a list goes on; on stderr, so that what is printed stays what it is."""
        if following is not None:
            self.note(f"only the first {limit:,} are shown: --limit N shows more")

    def csv(self, views: Sequence[Any], columns: Sequence[str]) -> None:
        """CSV with a header; no cell starts a spreadsheet's formula."""
        from sellapi.admin import csv_cell, to_json

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for row in to_json(tuple(views)):
            writer.writerow([csv_cell(row[name]) for name in columns])

    def say(self, text: str) -> None:
        """A remark for people; nothing with ``--json``."""
        if not self.as_json:
            from sellapi.admin import clean

            click.echo(clean(text))

    # -- asking and waiting --------------------------------------------------------------------

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is destroyed; nobody there to ask: refused."""
        if yes:
            return
        if self.as_json or not on_terminal(sys.stdin):
            raise Refused(f"{question} Nobody is here to ask: say --yes to do it.")
        click.confirm(question, abort=True, err=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None] | None]:
        """A progress bar on stderr, on a terminal only."""
        if self.as_json or not on_terminal(sys.stderr):
            yield None
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


_WHOLE = (
    "id",
    "slug",
    "name",
    "group",
    "at",
    "tier",
    "mode",
    "state",
    "status",
    "request_id",
    "request",
    "model",
)
"""Columns whose cells are copied, or are short anyway."""


_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)


def has_room(characters: int = ROOM) -> bool:
    """Whether tables may show their wide columns: a file's reader scrolls, a terminal may be 80."""
    return _console().width >= characters


def _plain(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Aligned lines, none folded."""
    cells = [[str(_cell(row[name])) for name in columns] for row in rows]
    lines = [[name.replace("_", " ") for name in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [
        all(_is_number(cell) for cell in column if cell) for column in zip(*cells, strict=True)
    ]
    for line in lines:
        parts = zip(line, widths, numeric, strict=True)
        yield "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in parts).rstrip()


def _is_number(value: Any) -> bool:
    text = str(value)
    return not isinstance(value, bool) and text.lstrip("-").replace(".", "", 1).isdigit()


def _cell(value: Any) -> Any:
    from rich.text import Text

    from sellapi.admin import clean

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return Text("\n".join(clean(line) for line in value))
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return Text(clean(", ".join(value)))
    if isinstance(value, dict) and not any(isinstance(v, (dict, list)) for v in value.values()):
        words = (f"{name} {'none' if v is None else _cell(v)}" for name, v in value.items())
        return Text(clean(", ".join(words)))
    if isinstance(value, (dict, list)):
        return Text(clean(json.dumps(value, ensure_ascii=False)))
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return Text(f"{value[:10]} {value[11:19]}")  # UTC, as all times are; JSON has it whole
    return Text(clean(value))


def _grid() -> Any:
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _console() -> Console:
    from rich.console import Console

    # Rich would take COLUMNS=0 at its word, and print nothing.
    width = shutil.get_terminal_size((WIDE, 0)).columns
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _print(renderable: Any) -> None:
    _console().print(renderable)


# -- decorators --------------------------------------------------------------------------------


def group(name: str, text: str, *, example: str) -> Callable[[Callable[[], None]], click.Group]:
    """A noun, with what is done most with it as the example of its help."""

    def wrap(function: Callable[[], None]) -> click.Group:
        return click.group(name, help=text, epilog=_epilog(example))(function)

    return wrap


def _epilog(example: str) -> str:
    return "\b\nExample:\n  " + "\n  ".join(example.splitlines())


def command(
    parent: click.Group | None, name: str, *, example: str
) -> Callable[[Callable[..., None]], click.Command]:
    """A verb: adds ``--json`` and ``--database``, an example to its help, and hands in an `Out`."""

    def wrap(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, database: str | None, **options: Any) -> None:
            if as_json and options.get("as_csv"):
                raise UsageError("--csv and --json are two forms of one answer: say which")
            out = Out(as_json=as_json, database=database)
            try:
                function(out, **options)
            finally:
                out.close()

        run = click.option(
            "--database", metavar="PATH", help="Database file (default: SELLAPI_DATABASE)."
        )(run)
        run = click.option("--json", "as_json", is_flag=True, help="One JSON document.")(run)
        made = click.command(name, epilog=_epilog(example))(run)
        if parent is not None:
            parent.add_command(made)
        return made

    return wrap
