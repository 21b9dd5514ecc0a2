"""Prices from a list somebody else keeps: read, compare, confirm, apply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sellapi.admin import importer
from sellapi.admin.service import Admin
from sellapi.admin.views import ImportPlan
from sellapi.errors import Refused, UsageError
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values

__all__ = ["ACTS"]

LIST_MAX = 64 * 2**20
SHOWN = 100
"""Changes told one by one; how many there are is told before them."""


def _plan(admin: Admin, values: Values) -> ImportPlan:
    path = Path(values["file"]).expanduser()
    try:
        if path.stat().st_size > LIST_MAX:
            raise Refused(f"{path} is over 64 MB: that is no price list")
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    return importer.plan(
        admin,
        data,
        provider=values["provider"] or None,
        only=values["only"],
        add_new=bool(values["new"]),
    )


def _words(prices: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in prices.items())


def _preview(found: ImportPlan) -> list[Line]:
    if not found.changes:
        raise UsageError(f"nothing to change: {found.unchanged} models are as the list says")
    new = sum(c.act == "add" for c in found.changes)
    lines = [Line("models", f"{new:,} new, {len(found.changes) - new:,} repriced")]
    lines += [
        Line(f"{c.act} {c.slug}", _words(c.after), _words(c.before) if c.before else None)
        for c in found.changes[:SHOWN]
    ]
    if len(found.changes) > SHOWN:
        lines.append(Line("and", f"{len(found.changes) - SHOWN:,} more"))
    return lines


async def import_prices(stage: Stage, at: Context) -> None:
    providers = await stage.fetch(lambda admin: admin.providers.list())
    reviewed: list[ImportPlan] = []

    def preview(admin: Admin, values: Values) -> list[Line]:
        reviewed[:] = [_plan(admin, values)]
        return _preview(reviewed[0])

    done = await stage.fill(
        FormSpec(
            title="Import prices",
            verb="Apply",
            intro="OpenRouter's /models JSON or LiteLLM's price map. Nothing is ever deleted.",
            fields=(
                Field("file", "File", hint="models.json", required=True),
                Field("provider", "Provider", at.provider, "who answers for new models",
                      options=tuple((p.name, p.name) for p in providers)),
                Field("only", "Only", hint="ids that begin so, e.g. openai/"),
                Field("new", "Add new ones", "yes", flag=True),
            ),
            preview=preview,
            act=lambda admin, _: importer.apply(admin, reviewed[0]),  # the file may be another now
        )
    )  # fmt: skip
    if done is not None:
        stage.done(f"{len(done.changes)} models are changed, {done.unchanged} were so already.")


ACTS = (
    Act("importer.apply", "Import prices", "OpenRouter or LiteLLM list, with a diff",
        "models import", import_prices),
)  # fmt: skip
