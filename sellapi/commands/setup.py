"""``sellapi init``, ``status``, ``doctor``."""

from __future__ import annotations

import os

import click

from sellapi.commands.common import Out, actor, command


@command(None, "init", example="sellapi init\nSELLAPI_DATABASE=shop.db sellapi init")
def init(out: Out) -> None:
    """Create the database: schema, models, packs, tiers. A second time changes nothing."""
    from sellapi.admin import setup

    result = setup.init(out.path, actor=actor(), via="cli", env=os.environ)
    out.one(result)
    if result.created:
        out.say("next: sellapi users add EMAIL, sellapi keys create EMAIL, sellapi serve")


@command(None, "status", example="sellapi status --json")
def status(out: Out) -> None:
    """How the shop stands: servers, providers, today's figures. Works without a server too."""
    from sellapi.admin import to_json

    view = out.admin.status()
    if out.as_json:
        out.one(view)
        return
    data = to_json(view)
    today, providers, servers = data.pop("today"), data.pop("providers"), data.pop("servers")
    out.pairs({**data, **{f"today_{name}": value for name, value in today.items()}})
    alive = [s for s in servers if s["alive"]]
    out.say("" if alive else "no server runs")
    if alive:
        out.table(alive, ["id", "pid", "host", "started_at", "status_at"])
    if providers:
        out.table(
            providers,
            ["name", "kind", "available", "state", "latency_ms", "cooling_s", "models"],
        )


@command(None, "doctor", example="sellapi doctor\nsellapi doctor --strict --json")
@click.option("--strict", is_flag=True, help="Exit with 1 when something is not ok.")
def doctor(out: Out, strict: bool) -> None:
    """Look for trouble, and say how to mend it."""
    from sellapi.admin import upkeep
    from sellapi.errors import StorageError

    try:
        checks = out.admin.doctor()
    except StorageError as error:
        checks = upkeep.unopened(out.path, error)
    if out.as_json:
        out.many(checks, (), empty="")
    else:
        out.checks([(c.ok, c.name, c.detail, c.mend) for c in checks])
    if strict and not all(c.ok for c in checks):
        click.get_current_context().exit(1)
