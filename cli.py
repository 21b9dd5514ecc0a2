"""The command ``sellapi``: lazy subcommands; errors go to stderr, with an exit code.

0 done, 1 refused (the message says why), 2 words that make no sense. Nothing heavy is imported
before a command's body runs: `sellapi --help` stays quick.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 before anything that would fail less clearly
    sys.exit("sellapi needs Python 3.11 or newer")

import click

from sellapi import __version__
from sellapi.commands.lazy import LazyGroup

COMMANDS = {
    "init": ("setup:init", "Create the database with a catalog to sell."),
    "serve": ("serve:serve", "Serve the API."),
    "tui": ("tui:tui", "The shop on one screen."),
    "status": ("setup:status", "How the shop stands."),
    "doctor": ("setup:doctor", "What may be wrong, and how to mend it."),
    "users": ("users:users", "People and programs that buy credits."),
    "keys": ("keys:keys", "Bearer keys of users."),
    "packs": ("packs:packs", "Packs of credits, and their sales."),
    "tiers": ("packs:tiers", "Limits of free and pro."),
    "credits": ("credits:credits_", "Grants, deductions, refunds, statements."),
    "providers": ("providers:providers", "Accounts at makers of models."),
    "models": ("models:models", "What is for sale, at which price."),
    "usage": ("usage:usage", "Charges, cost and margin by model, user, key or day."),
    "requests": ("requests:requests", "Requests and their receipts."),
    "ledger": ("ledger:ledger", "The ledger, verified and browsed."),
    "audit": ("ledger:audit", "Who did what, when, from CLI or TUI."),
    "db": ("db:db", "The database file: migrate, check, back up, restore."),
    "completion": ("completion:completion", "Shell completion for bash, zsh or fish."),
}


@click.group(cls=LazyGroup, commands_map=COMMANDS, package="sellapi.commands")
@click.version_option(__version__, prog_name="sellapi")
def cli() -> None:
    """Run an LLM API shop from a terminal: sell access for prepaid credits.

    \b
    sellapi init                      create the shop
    sellapi users add ann@shop.test   a customer, with free credits
    sellapi keys create ann@shop.test a key, shown once
    sellapi serve                     answer at http://127.0.0.1:8000/v1
    """  # noqa: D301 the escape is Click's mark for lines left as they are


def main() -> None:
    cli(prog_name="sellapi")


if __name__ == "__main__":
    main()
