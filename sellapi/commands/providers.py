"""``sellapi providers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sellapi.commands.common import Out, command, group

COLUMNS = ["name", "kind", "models", "available", "state"]
WIDE = ["in_flight", "latency_ms", "cooling_s", "base_url"]


@group(
    "providers",
    "Accounts at makers of models. Their keys stay in the environment or a file.",
    example="sellapi providers list\nsellapi providers test openai",
)
def providers() -> None: ...


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--base-url", metavar="URL", help="What the maker's own SDK calls so."),
            click.option("--api-key-env", metavar="VAR", help="Variable that holds the key."),
            click.option("--api-key-file", metavar="FILE", help="File that holds the key."),
            click.option(
                "--header",
                "headers",
                multiple=True,
                metavar="K=V",
                help="Sent with every call; a secret as K=env:VAR.",
            ),
            click.option(
                "--max-connections", type=int, help="Calls at a time; others wait in line."
            ),
            click.option(
                "--timeout", "timeout_s", type=float, metavar="S", help="Seconds to the first byte."
            ),
            click.option(
                "--proxy",
                metavar="URL",
                help="Way out (other than http:// want SELLAPI_ENGINE=httpx); none: direct.",
            ),
        )
    ):
        function = option(function)
    return function


@command(
    providers,
    "add",
    example="sellapi providers add openai --kind openai --api-key-env OPENAI_API_KEY",
)
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(["openai", "anthropic", "gemini"]))
@click.option("--no-key", is_flag=True, help="It wants none (a local server).")
@_options
def add(out: Out, name: str, **options: Any) -> None:
    """Add a provider (kind openai: any OpenAI-compatible server)."""
    out.one(out.admin.providers.add(name, **options))


@command(providers, "list", example="sellapi providers list")
def list_(out: Out) -> None:
    """List providers; availability is what a running server last wrote."""
    empty = "no providers yet: sellapi providers add"
    out.many(out.admin.providers.list(), COLUMNS, wide=WIDE, empty=empty)


@command(providers, "show", example="sellapi providers show openai --json")
@click.argument("name")
def show(out: Out, name: str) -> None:
    """Show one provider."""
    out.one(out.admin.providers.show(name))


@command(providers, "set", example="sellapi providers set openai --max-connections 64")
@click.argument("name")
@_options
@click.option("--enable/--disable", "enabled", default=None, help="Whether it is called at all.")
def set_(out: Out, name: str, **options: Any) -> None:
    """Change a provider; holds for the next request."""
    out.one(out.admin.providers.set(name, **options))


@command(providers, "test", example="sellapi providers test openai")
@click.argument("name")
@click.option("--model", help="Upstream id to ask (default: a cheap one).")
def test(out: Out, name: str, model: str | None) -> None:
    """Make one cheap real call (one output token). Exit code 1 when it fails."""
    result = out.admin.providers.test(name, model=model)
    out.one(result)
    if not result.ok:
        click.get_current_context().exit(1)


@command(providers, "remove", example="sellapi providers remove old --yes")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(out: Out, name: str, yes: bool) -> None:
    """Remove a provider and the routes to it."""
    models = out.admin.providers.routed_models(name)
    lost = f" and its routes from {len(models)} models" if models else ""
    out.confirm(f"Remove provider {name}{lost}?", yes=yes)
    out.one(out.admin.providers.remove(name))
