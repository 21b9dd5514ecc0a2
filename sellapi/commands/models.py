"""``sellapi models``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sellapi.commands.common import Out, command, group, on_terminal

if TYPE_CHECKING:
    from sellapi.admin.views import Model

COLUMNS = ["slug", "mode", "tier", "prices", "live"]
WIDE = ["provider", "upstream", "why_not"]
_BRIEF = {
    "input": "in",
    "output": "out",
    "cache_read": "cached",
    "image_output": "image",
    "images": "each",
}
"""Prices shown in a list, and how; `models show` has them all."""
_PRICES = (
    ("input", "USD per million input tokens."),
    ("output", "USD per million output tokens."),
    ("cached-input", "… read from a cache."),
    ("cache-write", "… written to a cache for 5 minutes."),
    ("cache-write-1h", "… written to a cache for an hour."),
    ("audio-input", "… of audio."),
    ("image-input", "… of images in the prompt."),
    ("image-output", "… of image tokens in the answer."),
    ("long-input", "Input above --long-context."),
    ("long-output", "Output above --long-context."),
    ("long-cached-input", "Cached input above --long-context."),
    ("long-cache-write", "Cache write above --long-context."),
)


@group(
    "models",
    "What is for sale, at which price.",
    example="sellapi models list\nsellapi models set openai/gpt-5.4 --input 3 --output 15",
)
def models() -> None: ...


def _options(function: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--provider", help="Who answers."),
        click.option("--upstream", metavar="ID", help="The id the provider knows it by."),
        *(click.option(f"--{name}", metavar="USD", help=text) for name, text in _PRICES),
        click.option(
            "--image",
            "images",
            multiple=True,
            metavar="[SIZE:QUALITY=]USD",
            help="USD per image; * for any, 1K, 2K or 4K for a class of sizes.",
        ),
        click.option("--long-context", type=int, help="Tokens above which long prices hold."),
        click.option("--tier", type=click.Choice(["free", "pro"]), help="Who may call it."),
        click.option("--name", help="Shown to customers."),
        click.option(
            "--context", type=int, help="Context length in tokens; else prompts count whole."
        ),
        click.option(
            "--max-output",
            type=int,
            help="Longest answer of the provider in tokens; else 16384, sent as a limit.",
        ),
        click.option("--modalities", metavar="text,image", help="What it takes."),
        click.option("--allow-fields", metavar="A,B", help="Billing fields allowed at its price."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _split(options: dict[str, Any]) -> dict[str, Any]:
    names = [name.replace("-", "_") for name, _ in _PRICES] + ["long_context"]
    prices = {name: options.pop(name) for name in names}
    return {**options, "prices": prices}


def _show(out: Out, model: Model) -> None:
    """One model; its routes and coming prices below it."""
    from sellapi.admin import to_json

    if out.as_json:
        out.one(model)
        return
    data = to_json(model)
    routes, scheduled = data.pop("routes"), data.pop("scheduled")
    out.pairs(data)
    if routes:
        out.say("")
        out.table(routes, ["provider", "upstream", "priority", "weight", "available", "cost"])
    if scheduled:
        out.say("")
        out.table(scheduled, ["effective_at", "prices", "actor"])


@command(
    models,
    "add",
    example="sellapi models add acme/large --mode chat --provider acme --upstream large-2 "
    "--input 3 --output 15",
)
@click.argument("slug")
@click.option(
    "--mode", required=True, type=click.Choice(["chat", "embedding", "image"]), help="What it does."
)
@_options
def add(out: Out, slug: str, **options: Any) -> None:
    """Add a model. Prices are exact decimals; without one it stays disabled."""
    _show(out, out.admin.models.add(slug, **_split(options)))


@command(models, "list", example="sellapi models list --json")
def list_(out: Out) -> None:
    """List models. Prices are USD per million tokens, `each` USD per image."""
    out.many(
        out.admin.models.list(),
        COLUMNS,
        wide=WIDE,
        cells={"prices": _brief, "live": lambda m: "yes" if m["available"] else "no"},
        empty="no models yet: sellapi models add SLUG",
    )


def _brief(model: dict[str, Any]) -> str:
    """``in 3 out 15 cached 0.3``."""
    words = []
    for name, word in _BRIEF.items():
        price = model["prices"].get(name)
        if isinstance(price, dict):
            each = sorted(price.values(), key=Decimal)
            price = each[0] if each[0] == each[-1] else f"{each[0]}-{each[-1]}"
        if price is not None:
            words.append(f"{word} {price}")
    return " ".join(words) or "none"


@command(models, "show", example="sellapi models show openai/gpt-5.4")
@click.argument("slug")
def show(out: Out, slug: str) -> None:
    """Show one model with its prices and routes."""
    _show(out, out.admin.models.show(slug))


@command(
    models,
    "set",
    example="sellapi models set openai/gpt-5.4 --input 2.75 --output 16\n"
    "sellapi models set openai/gpt-5.4 --input 3 --from 2027-01-01",
)
@click.argument("slug")
@click.option("--from", "start", metavar="DATE", help="UTC day the new price begins.")
@_options
def set_(out: Out, slug: str, **options: Any) -> None:
    """Change a model; a new price is a new version. --provider/--upstream replace all routes.

    A price scheduled with --from changes on its day what it was given; the others go on.
    """
    _show(out, out.admin.models.set(slug, **_split(options)))


@command(models, "enable", example="sellapi models enable openai/gpt-5.4")
@click.argument("slug")
def enable(out: Out, slug: str) -> None:
    """Offer a model."""
    _show(out, out.admin.models.enable(slug))


@command(models, "disable", example="sellapi models disable openai/gpt-5.4")
@click.argument("slug")
def disable(out: Out, slug: str) -> None:
    """Offer a model no more; holds for the next request."""
    _show(out, out.admin.models.disable(slug))


@command(models, "prices", example="sellapi models prices openai/gpt-5.4")
@click.argument("slug")
def prices(out: Out, slug: str) -> None:
    """All price versions of a model."""
    out.many(
        out.admin.models.price_history(slug),
        ["id", "effective_at", "prices", "actor"],
        empty="it has no price",
    )


@command(
    models,
    "route",
    example="sellapi models route openai/gpt-5.4 add backup:gpt-5.4 --priority 1 --cost input=2.5",
)
@click.argument("slug")
@click.argument("verb", metavar="add|remove", type=click.Choice(["add", "remove"]))
@click.argument("target", metavar="PROVIDER:ID")
@click.option("--priority", type=int, help="Lowest is tried first (default: last).")
@click.option("--weight", type=int, help="Share among equal priorities.")
@click.option("--timeout", "timeout_s", type=float, metavar="S", help="Seconds to the first byte.")
@click.option("--max-concurrency", type=int, help="Calls at a time on this route.")
@click.option("--retry-on-timeout", is_flag=True, help="The next route may be tried then.")
@click.option("--cost", multiple=True, metavar="NAME=USD", help="What the provider charges us.")
def route(out: Out, slug: str, verb: str, target: str, **options: Any) -> None:
    """Add or remove a way to answer for a model."""
    if verb == "add":
        _show(out, out.admin.models.route_add(slug, target, **options))
    else:
        _show(out, out.admin.models.route_remove(slug, target))


@command(
    models,
    "import",
    example="sellapi models import openrouter.json --provider openrouter\n"
    "sellapi models import model_prices.json --provider openai --only openai/ --yes",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", help="Who answers for new models.")
@click.option("--only", default="", help="Only ids that begin so.")
@click.option("--new/--no-new", "add_new", default=True, help="Add models that are not there yet.")
@click.option("--yes", is_flag=True, help="Apply without asking.")
def import_(
    out: Out, file: Path, provider: str | None, only: str, add_new: bool, yes: bool
) -> None:
    """Compare a price list (OpenRouter's /models, LiteLLM's price map) and apply the difference.

    Never deletes; old prices stay as versions. What cannot be applied is told and skipped.
    Without --yes and without a terminal it only shows the difference.
    """
    import sys

    from sellapi.admin import importer

    plan = importer.plan(
        out.admin, file.read_bytes(), provider=provider, only=only, add_new=add_new
    )
    asked = False
    if plan.changes and not yes and not out.as_json and on_terminal(sys.stdin):
        _show_plan(out, plan)
        asked = click.confirm(f"Apply {len(plan.changes)} changes?", err=True)
    if plan.changes and (yes or asked):
        with out.progress("importing") as progress:
            plan = importer.apply(out.admin, plan, progress)
    if out.as_json:
        out.one(plan)
    elif not asked:
        _show_plan(out, plan)
    out.say(
        f"{'applied' if plan.applied else 'would apply'} {len(plan.changes)} changes; "
        f"{plan.unchanged} unchanged, {plan.skipped} skipped"
        + ("" if provider else "; with --provider NAME new models are added too")
    )


def _show_plan(out: Out, plan: Any) -> None:
    rows = (*plan.changes, *plan.refused)
    out.many(rows, ["act", "slug", "before", "after", "note"], empty="nothing to change")
