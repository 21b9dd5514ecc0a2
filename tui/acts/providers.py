"""Acts on providers: accounts at makers of models."""

from __future__ import annotations

from sellapi.admin.providers import DEFAULT_BASE_URLS
from sellapi.admin.service import Admin
from sellapi.admin.views import Provider
from sellapi.domain.catalog import DEFAULT_CONNECTIONS, DEFAULT_TIMEOUT_S
from sellapi.errors import UsageError
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.typed import differing, seconds, whole

__all__ = ["ACTS"]

KINDS = tuple((k, k) for k in ("openai", "anthropic", "gemini"))


def _connection_fields(old: Provider | None) -> tuple[Field, ...]:
    headers = {} if old is None else old.headers
    return (
        Field("base_url", "Base URL", "" if old is None else old.base_url,
              "its maker's; or https://host/v1"),
        Field("api_key_env", "Key variable", (old.api_key_env if old else "") or "",
              "OPENAI_API_KEY: a name, never the key"),
        Field("api_key_file", "Key file", (old.api_key_file if old else "") or "",
              "or a file that holds it"),
        Field("headers", "Headers", " ".join(f"{k}={v}" for k, v in headers.items()),
              "NAME=VALUE; secrets as NAME=env:VARIABLE"),
        Field("max_connections", "Connections", "" if old is None else str(old.max_connections),
              f"{DEFAULT_CONNECTIONS}"),
        Field("timeout", "Timeout", "" if old is None else f"{old.timeout_s:g}",
              f"seconds; {DEFAULT_TIMEOUT_S:g}"),
        Field("proxy", "Proxy", (old.proxy if old else "") or "", "none; http://proxy:3128"),
    )  # fmt: skip


async def add_provider(stage: Stage, _at: Context) -> None:
    def act(admin: Admin, v: Values) -> Provider:
        return admin.providers.add(
            v["name"],
            kind=v["kind"],
            base_url=v["base_url"] or None,
            api_key_env=v["api_key_env"] or None,
            api_key_file=v["api_key_file"] or None,
            no_key=bool(v["no_key"]),
            headers=v["headers"].split(),
            max_connections=whole("Connections", v["max_connections"]),
            timeout_s=seconds(v["timeout"]),
            proxy=v["proxy"] or None,
        )

    done = await stage.fill(
        FormSpec(
            title="Add a provider",
            verb="Add",
            intro="Its key stays in the environment of `sellapi serve`, or in a file.",
            fields=(
                Field("name", "Name", hint="backup", required=True),
                Field("kind", "Kind", "openai", options=KINDS, required=True),
                *_connection_fields(None),
                Field("no_key", "Wants no key", flag=True),
            ),
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.name}: {done.state}. {' '.join(done.hints)}")


async def _ask_provider(stage: Stage, at: Context, title: str) -> Provider | None:
    if at.provider:
        name = at.provider
        return await stage.fetch(lambda admin: admin.providers.show(name))
    providers = await stage.fetch(lambda admin: admin.providers.list())
    return await stage.fill(
        FormSpec(
            title=title,
            verb="Go on",
            fields=(
                Field("provider", "Provider", options=tuple((p.name, p.name) for p in providers),
                      required=True),
            ),
            act=lambda admin, v: admin.providers.show(v["provider"]),
        )
    )  # fmt: skip


def _provider_before(old: Provider) -> dict[str, str]:
    before = {f.name: f.value for f in _connection_fields(old)}
    return {**before, "enabled": "yes" if old.enabled else "no"}


def _defaults(old: Provider) -> dict[str, str]:
    """What an emptied field means, as it does for a new provider."""
    return {
        "base_url": DEFAULT_BASE_URLS.get(old.kind, ""),
        "max_connections": str(DEFAULT_CONNECTIONS),
        "timeout": f"{DEFAULT_TIMEOUT_S:g}",
    }


def _provider_changes(old: Provider, values: Values) -> dict[str, str]:
    """What differs from how it is; ``""`` takes away."""
    before, defaults = _provider_before(old), _defaults(old)
    after = {n: values[n] or defaults.get(n, "") for n in before}
    after["enabled"] = values["enabled"] or "no"
    if after["proxy"].lower() == "none":
        after["proxy"] = ""
    changed = {n: v for n, v in after.items() if v != before[n]}
    keys = ("api_key_env", "api_key_file")
    if any(before[n] for n in keys) and not any(after[n] for n in keys):
        raise UsageError("its key must stand somewhere: name a variable or a file")
    for one, other in (keys, keys[::-1]):
        if changed.get(one) and before[other] and other not in changed:
            changed[other] = ""  # naming the one place takes the other away
    return changed


async def set_provider(stage: Stage, at: Context) -> None:
    old = await _ask_provider(stage, at, "Change which provider?")
    if old is None:
        return

    def preview(_admin: Admin, values: Values) -> list[Line]:
        changed, before = _provider_changes(old, values), _provider_before(old)
        whole("Connections", changed.get("max_connections", ""))
        seconds(changed.get("timeout", ""))
        emptied = {n: f"{v}, the default" for n, v in _defaults(old).items() if not values[n]}
        return differing(
            [Line(n.replace("_", " "), emptied.get(n, v), before[n]) for n, v in changed.items()]
        )

    def act(admin: Admin, values: Values) -> Provider:
        changed = _provider_changes(old, values)
        gone = {k for k in old.headers if k not in {p.partition("=")[0].lower()
                for p in changed.get("headers", "").split()}}  # fmt: skip
        headers = changed["headers"].split() if "headers" in changed else []
        if "headers" in changed and not headers:
            headers = [f"{name}=" for name in sorted(gone)]
        return admin.providers.set(
            old.name,
            base_url=changed.get("base_url"),
            api_key_env=changed.get("api_key_env") or None,
            api_key_file=changed.get("api_key_file") or None,
            headers=headers,
            max_connections=whole("Connections", changed.get("max_connections", "")),
            timeout_s=seconds(changed.get("timeout", "")),
            proxy=changed["proxy"] or "none" if "proxy" in changed else None,
            enabled=None if "enabled" not in changed else changed["enabled"] == "yes",
        )

    done = await stage.fill(
        FormSpec(
            title=f"Change provider {old.name}",
            verb="Change",
            fields=(
                *_connection_fields(old),
                Field("enabled", "In use", "yes" if old.enabled else "", flag=True),
            ),
            preview=preview,
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.name}: {done.state}. {' '.join(done.hints)}")


async def test_provider(stage: Stage, at: Context) -> None:
    provider = await _ask_provider(stage, at, "Test which provider?")
    if provider is None:
        return
    stage.tell(f"Calling {provider.name} once …")
    found = await stage.fetch(lambda admin: admin.providers.test(provider.name))
    words = f"{found.name}, {found.model}: {found.message}"
    if found.ok:
        stage.done(f"{words} in {found.latency_ms} ms.")
    else:
        stage.tell(words, bad=True)


async def remove_provider(stage: Stage, at: Context) -> None:
    provider = await _ask_provider(stage, at, "Remove which provider?")
    if provider is None:
        return
    slugs = await stage.fetch(lambda admin: admin.providers.routed_models(provider.name))
    shown = ", ".join(slugs[:6]) + (" …" if len(slugs) > 6 else "")
    words = f"{len(slugs)} models lose a route: {shown}" if slugs else "No model goes to it."
    done = await stage.fill(
        FormSpec(
            title="Remove this provider?",
            intro=f"{provider.name} ({provider.kind})\n\n{words}",
            verb="Remove",
            danger=True,
            act=lambda admin, _v: admin.providers.remove(provider.name),
        )
    )
    if done is not None:
        stage.done(f"{done.name} is removed.")


ACTS = (
    Act("providers.add", "Add a provider", "An account at a maker", "providers add", add_provider),
    Act("providers.set", "Change a provider", "URL, key, limits", "providers set", set_provider),
    Act("providers.test", "Test a provider", "One cheap call", "providers test", test_provider),
    Act("providers.remove", "Remove a provider", "And the routes to it", "providers remove",
        remove_provider),
)  # fmt: skip
