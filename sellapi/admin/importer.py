"""Price lists of others: OpenRouter's ``/models`` and LiteLLM's price map, compared and applied.

Both price per token as decimals (OpenRouter strings, LiteLLM JSON numbers); they are read as exact
decimals, never as floats. An import adds models and price versions; it never deletes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, DecimalException
from typing import TYPE_CHECKING, Any

from sellapi.admin.models import new_model
from sellapi.admin.views import ImportChange, ImportPlan, Model
from sellapi.admin.words import clean
from sellapi.domain.credits import format_usd
from sellapi.errors import UsageError

if TYPE_CHECKING:
    from sellapi.admin.service import Admin

__all__ = ["apply", "plan"]

ROWS_MAX = 100_000
_OPENROUTER = {
    "prompt": "input",
    "completion": "output",
    "input_cache_read": "cached_input",
    "input_cache_write": "cache_write",
    "audio": "audio_input",
}
_LITELLM = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_image_token": "image_output",
}
_LITELLM_MODES = {"chat": "chat", "embedding": "embedding", "image_generation": "image"}
_FIELDS = {"cached_input": "cache_read", "long_cached_input": "long_cache_read"}
"""Option names -> names in `Model.prices`, where they differ."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """One model of a price list."""

    upstream: str
    name: str
    mode: str
    prices: dict[str, str | int]
    context: int | None
    max_output: int | None


def plan(
    admin: Admin,
    data: bytes,
    *,
    provider: str | None = None,
    only: str = "",
    add_new: bool = True,
) -> ImportPlan:
    """The difference between a price list and the catalog; changes nothing.

    A listed model is one of ours by its slug, or by a route's upstream id. New ones are added only
    with a ``provider``. Where two of the list are one of ours, the first counts. What could not be
    applied is told beside the changes. Raises `UsageError` for a file that is neither list.
    """
    source, listed, skipped = _read(data)
    if provider is not None:
        admin.providers.show(provider)
    ours = {m.slug: m for m in admin.models.list()}
    by_upstream: dict[str, dict[str, Model]] = {}
    for model in ours.values():
        for route in model.routes:
            if provider in (None, route.provider):
                by_upstream.setdefault(route.upstream, {})[model.slug] = model
    changes: list[ImportChange] = []
    refused: list[ImportChange] = []
    listed_before: set[str] = set()
    unchanged = 0
    for item in listed:
        if not item.upstream.startswith(only):
            continue
        named = ours.get(item.upstream)
        found = by_upstream.get(item.upstream, {}) if named is None else {named.slug: named}
        if found:
            made = [change for m in found.values() if (change := _repricing(item, m))]
            unchanged += len(found) - len(made)
        elif add_new and provider is not None:
            made = [_addition(item, provider)]
        else:
            made = []
            skipped += 1
        for change in made:
            why = _why_not(change, ours, listed_before)
            if why:
                refused.append(replace(change, act="skip", slug=clean(change.slug), note=why))
            else:
                changes.append(change)
        listed_before |= found.keys() | {change.slug for change in made}
    skipped += len(refused)
    return ImportPlan(source, provider, tuple(changes), unchanged, skipped, tuple(refused))


def _why_not(change: ImportChange, ours: Mapping[str, Model], listed_before: set[str]) -> str:
    """Why a change cannot be made, or nothing."""
    if change.slug in listed_before:
        return "listed before: that one counts"
    if change.act == "add" and change.slug in ours:
        return "there is a model of that slug, and it is routed elsewhere"
    if change.act == "add":
        data = dict(change.data)
        del data["provider"]
        try:
            new_model(**data)
        except UsageError as error:
            return str(error)
    return ""


def _repricing(item: _Listed, model: Model) -> ImportChange | None:
    after = {n: p for n, p in item.prices.items() if model.prices.get(_FIELDS.get(n, n)) != p}
    if model.mode != item.mode or not after:
        return None
    before = {n: model.prices.get(_FIELDS.get(n, n)) for n in after}
    change = {"slug": model.slug, "prices": after}
    return ImportChange("price", model.slug, before, after, data=change)


def _addition(item: _Listed, provider: str) -> ImportChange:
    slug = item.upstream if "/" in item.upstream else f"{provider}/{item.upstream}"
    return ImportChange(
        "add",
        slug,
        {},
        item.prices,
        note=f"{item.mode}, pro",
        data={
            "slug": slug,
            "mode": item.mode,
            "provider": provider,
            "upstream": item.upstream,
            "name": item.name,
            "prices": item.prices,
            "context": item.context,
            "max_output": item.max_output,
        },
    )


def apply(
    admin: Admin, found: ImportPlan, progress: Callable[[int, int], None] | None = None
) -> ImportPlan:
    """Make a plan's changes (`Models.apply`)."""
    admin.models.apply(found.changes, progress)
    return replace(found, applied=True)


# -- reading -----------------------------------------------------------------------------------


def _read(data: bytes) -> tuple[str, list[_Listed], int]:
    try:
        document = json.loads(data, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError, DecimalException) as error:
        raise UsageError(f"that is no JSON: {error}") from None
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        source, rows = "openrouter", [_openrouter(row) for row in document["data"][:ROWS_MAX]]
    elif isinstance(document, dict) and any(
        isinstance(v, dict) and "litellm_provider" in v for v in document.values()
    ):
        source, rows = "litellm", [_litellm(n, row) for n, row in list(document.items())[:ROWS_MAX]]
    else:
        raise UsageError("that is neither OpenRouter's /models nor LiteLLM's price map")
    return source, [row for row in rows if row is not None], sum(row is None for row in rows)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no price")


def _prices(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str | int] | None:
    """Decimal USD per million tokens by option name; None when a price cannot be kept exactly."""
    found: dict[str, str | int] = {}
    for theirs, ours in names.items():
        value = row.get(theirs)
        if value is None:
            continue
        try:
            micro_usd = Decimal(value) * 10**12
        except (DecimalException, TypeError, ValueError):
            return None
        if not micro_usd.is_finite() or micro_usd < 0 or micro_usd > 10**15:
            return None  # OpenRouter lists "-1" where the price depends on the route
        exact = int(micro_usd)
        # Finer than a millionth of a dollar per million tokens: rounded up, never given away.
        found[ours] = format_usd(exact if exact == micro_usd else exact + 1)
    return found


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value <= 10**9 else None


def _openrouter(row: Any) -> _Listed | None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    pricing = row.get("pricing")
    prices = _prices(pricing, _OPENROUTER) if isinstance(pricing, dict) else None
    if not prices or "input" not in prices:
        return None
    architecture = row.get("architecture") if isinstance(row.get("architecture"), dict) else {}
    assert isinstance(architecture, dict)
    out = architecture.get("output_modalities")
    top = row.get("top_provider") if isinstance(row.get("top_provider"), dict) else {}
    assert isinstance(top, dict)
    return _Listed(
        row["id"],
        clean(row.get("name") or row["id"]),
        "image" if isinstance(out, list) and out and "text" not in out else "chat",
        prices,
        _count(row.get("context_length")),
        _count(top.get("max_completion_tokens")),
    )


def _litellm(name: str, row: Any) -> _Listed | None:
    if name == "sample_spec" or not isinstance(row, dict):
        return None
    mode = _LITELLM_MODES.get(str(row.get("mode")))
    prices = _prices(row, _LITELLM)
    if mode is None or not prices or "input" not in prices:
        return None
    if mode == "embedding":
        prices = {n: p for n, p in prices.items() if n == "input"}
    for above, long in _steps(row):
        prices["long_context"] = above
        prices |= {f"long_{n}": p for n, p in long.items()}
        break
    return _Listed(
        name,
        clean(name),
        mode,
        prices,
        _count(row.get("max_input_tokens")),
        _count(row.get("max_output_tokens")),
    )


def _steps(row: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, str | int]]]:
    """Long-context steps: ``input_cost_per_token_above_200k_tokens`` and its like."""
    for key in row:
        above = key.removeprefix("input_cost_per_token_above_").removesuffix("k_tokens")
        if above.isascii() and above.isdigit() and len(above) < 7:
            names = {
                f"{theirs}_above_{above}k_tokens": ours
                for theirs, ours in list(_LITELLM.items())[:4]
            }
            long = _prices(row, names)
            if long:
                yield int(above) * 1000, long
