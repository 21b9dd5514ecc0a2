"""A Click group that imports a command when it is called, and ends with our exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import sys
import traceback
from typing import Any, NoReturn, TextIO

import click

from sellapi.errors import SellapiError, UsageError

__all__ = ["LazyGroup", "as_document", "fail"]


def as_document(value: Any, stream: TextIO | None, *, indent: int | None = None) -> str:
    """JSON in letters that the stream can carry."""
    utf = (getattr(stream, "encoding", None) or "").lower().startswith("utf")
    return json.dumps(value, indent=indent, ensure_ascii=not utf)


def fail(message: str, kind: str, code: int, *, as_json: bool, hint: str = "") -> NoReturn:
    """Tell the trouble on stderr (as JSON when that was asked for) and exit."""
    if as_json:
        error = {"message": message, "type": kind, **({"hint": hint} if hint else {})}
        click.echo(as_document({"error": error}, sys.stderr), err=True)
    else:
        click.echo("\n".join(filter(None, (f"Error: {message}", hint))), err=True)
    sys.exit(code)


def _fault(error: Exception, *, as_json: bool) -> NoReturn:
    """Tell of what no command foresaw, like any other trouble; where it lies is for developers."""
    from sellapi.settings import Settings

    try:
        debug = Settings.load({}).debug
    except SellapiError:
        debug = False
    if debug:
        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "" if debug else "SELLAPI_DEBUG=1 shows where it lies."
    fail(f"a fault of sellapi's own, {what}", "internal", 1, as_json=as_json, hint=hint)


class LazyGroup(click.Group):
    """``commands_map``: name -> (``module:attribute`` below ``package``, one line of help)."""

    def __init__(
        self, *args: Any, commands_map: dict[str, tuple[str, str]], package: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._map = commands_map
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._map)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._map:
            return None
        module, _, attribute = self._map[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(f"{self._package}.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):  # from the map: nothing is imported for it
            formatter.write_dl([(name, text) for name, (_, text) in self._map.items()])

    def _hint(self, words: list[str]) -> str:
        """Where help stands on the command that was meant."""
        context, command, path = click.Context(self), self, ["sellapi"]  # type: click.Context, click.Command, list[str]
        for word in words:
            found = command.get_command(context, word) if isinstance(command, click.Group) else None
            if found is None:
                break
            command = found
            path.append(word)
        return f"Try `{' '.join(path)} --help`."

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        """Run, and end with 0, 1 or 2; trouble is told on stderr."""
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in given
        extra["standalone_mode"] = False
        if sys.stdout is None:  # closed: a key that is shown once would be lost
            words = "stdout is closed: nobody would see the answer (> /dev/null throws it away)"
            fail(words, "refused", 1, as_json=as_json)
        for stream in (sys.stdout, sys.stderr):  # without UTF-8 a letter is lost, not the answer
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        for word in given:
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                fail(f"{word!a} is no text: write UTF-8", "usage", 2, as_json=as_json)
        try:
            code = super().main(given, *rest, **extra)
        except click.Abort:
            fail("stopped", "aborted", 1, as_json=as_json)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.NoSuchOption as error:
            number = error.option_name.lstrip("-").replace(".", "", 1).isdigit()
            message = "an amount is never negative" if number else error.format_message()
            fail(message, "usage", 2, as_json=as_json, hint=self._hint(given))
        except click.UsageError as error:
            hint = self._hint(given)
            fail(error.format_message(), "usage", 2, as_json=as_json, hint=hint)
        except click.ClickException as error:
            fail(error.format_message(), "refused", error.exit_code, as_json=as_json)
        except UsageError as error:
            fail(str(error), "usage", 2, as_json=as_json, hint=self._hint(given))
        except SellapiError as error:
            kind = "".join("_" + c.lower() if c.isupper() else c for c in type(error).__name__)
            fail(str(error), kind.lstrip("_"), 1, as_json=as_json)
        except OSError as error:
            if error.errno == errno.EPIPE:  # `sellapi … | head`: nobody reads on
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(1)
            fail(f"{error.filename or 'the system'}: {error.strerror}", "os", 1, as_json=as_json)
        except Exception as error:
            # A script that reads our stderr finds JSON there, whatever it was.
            _fault(error, as_json=as_json)
        sys.exit(code if isinstance(code, int) else 0)
