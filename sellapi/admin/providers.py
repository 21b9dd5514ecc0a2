"""Providers: the accounts at makers of models that answer for us. Their secrets stay outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sellapi.admin.core import Noun
from sellapi.admin.views import Provider, ProviderTest
from sellapi.admin.words import clean
from sellapi.domain.catalog import KINDS
from sellapi.domain.catalog import Provider as DomainProvider
from sellapi.errors import Refused, UsageError
from sellapi.settings import Settings
from sellapi.storage import catalog, instances
from sellapi.storage.database import Tx

__all__ = ["DEFAULT_BASE_URLS", "Probe", "Providers", "provider_rows"]

DEFAULT_BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
Probe = Callable[[DomainProvider, str, str], tuple[bool, int, str]]
"""``(provider, upstream id, engine) -> (ok, milliseconds, message)``; one cheap real call."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_SECRET_HEADER = re.compile(
    r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"\b(sk|pk|rk|gsk|xai|AIza|ghp|hf|key|token|Bearer|Basic)[-_ ]?[A-Za-z0-9_-]{12,}"
    r"|[A-Za-z0-9+/_-]{32,}",
    re.IGNORECASE,
)
_ENDPOINT = re.compile(
    r"/(chat/completions|completions|embeddings|images/generations|messages|responses|models)$"
)
_CHEAP_MODELS = {
    "openai": "gpt-5.4-nano",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-2.5-flash-lite",
    "demo": "demo",
}


# -- words into columns ------------------------------------------------------------------------


def check_base_url(kind: str, url: str) -> tuple[str, tuple[str, ...]]:
    """``(base URL without trailing slash, hints)``; raises `UsageError`."""
    url = url.strip().rstrip("/")
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or clean(url) != url:
        raise UsageError(f"{clean(url)!r} is no base URL: write for example https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("a base URL holds no user, password or query: keys go into --api-key-env")
    if _ENDPOINT.search(parts.path):
        raise UsageError(f"{url} is an endpoint; the base URL ends before {parts.path}")
    hints: list[str] = []
    if kind == "openai":
        if parts.hostname == "api.openai.com" and parts.path != "/v1":
            raise UsageError("OpenAI's base URL is https://api.openai.com/v1 (with /v1)")
        if not re.search(r"/(v\d\w*|openai)$", parts.path):
            hints.append("the base URL of kind openai usually ends in /v1; `providers test` tells")
    elif re.search(r"/v\d\w*$", parts.path):
        right = url[: url.rindex("/")]
        raise UsageError(f"the base URL of kind {kind} ends without a version: {right}")
    if parts.scheme == "http" and not _local(parts.hostname or ""):
        hints.append("plain http: the provider's key travels unencrypted")
    return url, tuple(hints)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL that names a host, and a port if any; None of anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:  # of brackets, or a port that is none
        return None


def _local(host: str) -> bool:
    return host == "localhost" or host.startswith(("127.", "10.", "192.168.")) or host == "::1"


def check_headers(pairs: Sequence[str]) -> dict[str, str]:
    """``K=V`` pairs; a secret is named, as ``K=env:VARIABLE``, never written down."""
    headers: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not _HEADER.fullmatch(name) or clean(value) != value or len(value) > 1000:
            raise UsageError(f"--header {clean(name)!r}: write NAME=VALUE or NAME=env:VARIABLE")
        if value.startswith("env:"):
            if not _VARIABLE.fullmatch(value[4:]):
                raise UsageError(f"--header {name}: env: is followed by a variable's name")
        elif value and (_SECRET_HEADER.search(name) or _SECRET_VALUE.search(value)):
            raise Refused(
                f"header {name} looks like a secret, and secrets are not kept in the database: "
                f"put it into the environment and write --header {name}=env:VARIABLE"
            )
        headers[name.lower()] = value
    return {n: v for n, v in headers.items() if v}


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or _SECRET_VALUE.fullmatch(name):
        raise Refused(
            "--api-key-env wants the NAME of an environment variable, not the key itself: "
            "for example --api-key-env OPENAI_API_KEY"
        )
    return name


def _check_proxy(url: str) -> str | None:
    if url.strip().lower() == "none":
        return None
    parts = _split(url.strip())
    if parts is None or parts.scheme not in ("http", "https", "socks5", "socks5h"):
        raise UsageError("--proxy wants a URL like http://proxy.local:3128")
    if parts.password:
        raise Refused("a proxy's password is not kept in the database: use one that asks for none")
    return url.strip()


# -- rows into views ---------------------------------------------------------------------------


def has_key(row: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    """Whether the provider's key is where its row says (or it needs none)."""
    if row["api_key_env"]:
        return bool(env.get(row["api_key_env"], "").strip())
    if row["api_key_file"]:
        try:
            return bool(Path(row["api_key_file"]).read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError):
            return False
    return True


def _state(
    row: Mapping[str, Any], keyed: bool, served: Mapping[str, Any] | None, wants: str | None
) -> tuple[bool, str]:
    if not row["enabled"]:
        return False, "disabled"
    where = row["api_key_env"] or row["api_key_file"]
    if served is not None:
        if served["broken"]:
            return False, "the server cannot set it up"
        if not served["usable"]:
            return False, f"the server has no key in {where}"
    elif not keyed:
        return False, f"no key in {where}"
    if wants is not None:
        return True, f"every call is refused: its proxy wants {wants}"
    return True, "ready" if served is None else _health(served["routes"])


def _health(routes: Sequence[Mapping[str, Any]]) -> str:
    """What the server saw of a provider's routes; a route that cools down is tried last."""
    if any(r.get("key_refused") for r in routes):
        return "the provider refuses our key"
    cooling = [r for r in routes if r.get("cooling_s")]
    if not cooling:
        return "ready"
    longest = max(cooling, key=lambda r: int(r["cooling_s"]))
    which = "" if len(cooling) == len(routes) else f" on {len(cooling)} of {len(routes)} routes"
    why = clean(longest.get("last_failure") or "it failed")
    return f"cooling down{which}, {longest['cooling_s']} s left: {why}"


def provider_view(
    row: Mapping[str, Any],
    env: Mapping[str, str],
    served: Mapping[str, Any] | None = None,
    hints: tuple[str, ...] = (),
    wants: str | None = None,
) -> Provider:
    keyed = has_key(row, env)
    available, state = _state(row, keyed, served, wants)
    routes = served["routes"] if served else ()
    latencies = [r["latency_ms"] for r in routes if r.get("latency_ms") is not None]
    return Provider(
        name=row["name"],
        kind=row["kind"],
        base_url=row["base_url"],
        api_key_env=row["api_key_env"],
        api_key_file=row["api_key_file"],
        headers=json.loads(row["headers"]),
        max_connections=row["max_connections"],
        timeout_s=row["timeout_ms"] / 1000,
        proxy=row["proxy"],
        enabled=bool(row["enabled"]),
        has_key=keyed,
        available=available,
        state=state,
        models=row["models"],
        in_flight=sum(int(r.get("in_flight") or 0) for r in routes),
        cooling_s=max((int(r.get("cooling_s") or 0) for r in routes), default=0),
        latency_ms=max(latencies, default=None),
        key_refused=any(r.get("key_refused") for r in routes),
        proxy_wants=wants,
        broken=bool(served and served["broken"]),
        hints=hints,
        created_at=row["created_at"],
    )


def provider_rows(noun: Noun, tx: Tx) -> dict[str, Provider]:
    """All providers by name, with what a running server says of them."""
    served = instances.served_providers(tx, noun.desk.database.path, noun.desk.now())
    return {
        row["name"]: provider_view(
            row, noun.desk.env, served.get(row["name"]), wants=_wanted_for_proxy(noun, tx, row)
        )
        for row in catalog.providers(tx)
    }


def _serving_engine(noun: Noun, tx: Tx) -> str:
    """What carries calls: as a running server says, or else the settings here."""
    database = noun.desk.database
    served = instances.served_engine(tx, database.path, noun.desk.now())
    return served or Settings.load({"database": str(database.given)}, noun.desk.env).engine


def _wanted_for_proxy(noun: Noun, tx: Tx, row: Mapping[str, Any]) -> str | None:
    """What the engine that serves lacks to go over a provider's proxy."""
    if row["proxy"] is None:
        return None
    from sellapi.upstream.engines import wanted_for_proxy

    return wanted_for_proxy(_serving_engine(noun, tx), row["proxy"])


def _changed(noun: Noun, tx: Tx, name: str, hints: tuple[str, ...]) -> Provider:
    """A provider as an act left it, with what looks odd about it."""
    row = _find(tx, name)
    wants = _wanted_for_proxy(noun, tx, row)
    if (
        wants is not None and row["enabled"] and not has_key(row, noun.desk.env)
    ):  # else its state says
        hints += (f"every call over this proxy is refused: it wants {wants} for `sellapi serve`",)
    return provider_view(row, noun.desk.env, hints=hints, wants=wants)


def _find(tx: Tx, name: str) -> dict[str, Any]:
    row = catalog.provider(tx, name.strip().lower())
    if row is None:
        raise Refused(f"there is no provider {clean(name)}: `sellapi providers list` shows them")
    return row


_AUDITED = (
    "kind", "base_url", "api_key_env", "api_key_file", "headers", "max_connections", "timeout_ms",
    "proxy", "enabled",
)  # fmt: skip


class Providers(Noun):
    def list(self) -> tuple[Provider, ...]:
        with self.read() as tx:
            return tuple(provider_rows(self, tx).values())

    def show(self, name: str) -> Provider:
        with self.read() as tx:
            return provider_rows(self, tx)[_find(tx, name)["name"]]

    def add(
        self,
        name: str,
        *,
        kind: str,
        base_url: str | None = None,
        api_key_env: str | None = None,
        api_key_file: str | None = None,
        no_key: bool = False,
        headers: Sequence[str] = (),
        max_connections: int | None = None,
        timeout_s: float | None = None,
        proxy: str | None = None,
    ) -> Provider:
        """A new provider account. Its key is named by variable or file, never written down."""
        name = name.strip().lower()
        if not _NAME.fullmatch(name):
            raise UsageError("a provider's name has letters a-z, digits, dots and dashes")
        if kind not in KINDS:
            raise UsageError(f"{clean(kind)!r} is no kind: {', '.join(KINDS)}")
        if not (api_key_env or api_key_file or no_key):
            raise UsageError("say where its key is: --api-key-env VAR or --api-key-file FILE")
        values, hints = self._columns(
            kind,
            DEFAULT_BASE_URLS[kind] if base_url is None else base_url,
            api_key_env,
            api_key_file,
            headers,
            max_connections,
            timeout_s,
            proxy,
        )
        with self.act("providers.add") as act:
            if catalog.provider(act.tx, name):
                raise Refused(f"there is a provider {name} already: `sellapi providers set`")
            values = {"name": name, "kind": kind, "created_at": self.desk.now(), **values}
            catalog.add_provider(act.tx, values)
            act.say(f"provider:{name}", after=values)
            return _changed(self, act.tx, name, hints)

    def _columns(
        self,
        kind: str,
        base_url: str | None,
        api_key_env: str | None,
        api_key_file: str | None,
        headers: Sequence[str],
        max_connections: int | None,
        timeout_s: float | None,
        proxy: str | None,
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        values: dict[str, Any] = {}
        hints: tuple[str, ...] = ()
        if base_url is not None:
            values["base_url"], hints = check_base_url(kind, base_url)
        if api_key_env and api_key_file:
            raise UsageError("give --api-key-env or --api-key-file, not both")
        if api_key_env is not None:
            values |= {"api_key_env": _check_variable(api_key_env), "api_key_file": None}
        if api_key_file is not None:
            if not api_key_file.strip():
                raise UsageError("--api-key-file wants the path of a file")
            path = Path(api_key_file).expanduser().absolute()
            values |= {"api_key_env": None, "api_key_file": str(path)}
            if not path.is_file():
                hints += (f"there is no file {path} yet",)
        if headers:
            values["headers"] = json.dumps(check_headers(headers), sort_keys=True)
        if max_connections is not None:
            if not 1 <= max_connections <= 100_000:
                raise UsageError("--max-connections is between 1 and 100,000")
            values["max_connections"] = max_connections
        if timeout_s is not None:
            if not 0.1 <= timeout_s <= 86_400:
                raise UsageError("--timeout is between 0.1 and 86,400 seconds")
            values["timeout_ms"] = round(timeout_s * 1000)
        if proxy is not None:
            values["proxy"] = _check_proxy(proxy)
        return values, hints

    def set(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        api_key_file: str | None = None,
        headers: Sequence[str] = (),
        max_connections: int | None = None,
        timeout_s: float | None = None,
        proxy: str | None = None,
        enabled: bool | None = None,
    ) -> Provider:
        """Change a provider; holds for the next request. ``headers`` replace all (``K=`` drops)."""
        with self.act("providers.set") as act:
            row = _find(act.tx, name)
            values, hints = self._columns(
                row["kind"],
                base_url,
                api_key_env,
                api_key_file,
                headers,
                max_connections,
                timeout_s,
                proxy,
            )
            if enabled is not None:
                values["enabled"] = int(enabled)
            if not values:
                raise UsageError("say what to set: --base-url, --api-key-env, …")
            catalog.change_provider(act.tx, row["id"], values)
            act.say(f"provider:{row['name']}", before={n: row[n] for n in values}, after=values)
            return _changed(self, act.tx, row["name"], hints)

    def routed_models(self, name: str) -> tuple[str, ...]:
        """Slugs of the models that would lose a route with this provider."""
        with self.read() as tx:
            return tuple(catalog.routed_models(tx, _find(tx, name)["id"]))

    def remove(self, name: str) -> Provider:
        """Remove a provider and the routes to it; models left without a route are unavailable."""
        with self.act("providers.remove") as act:
            row = _find(act.tx, name)
            view = provider_view(row, self.desk.env)
            models = catalog.routed_models(act.tx, row["id"])
            catalog.remove_provider(act.tx, row["id"])
            act.say(
                f"provider:{row['name']}",
                before={**{n: row[n] for n in _AUDITED}, "models": models},
            )
            return view

    def test(
        self, name: str, *, model: str | None = None, probe: Probe | None = None
    ) -> ProviderTest:
        """One cheap real call, by the engine that serves: does the key work, is the URL right?

        Blocking; seconds at most.
        """
        if probe is None:
            from sellapi.admin.probe import probe as real

            probe = real
        with self.read() as tx:
            row = _find(tx, name)
            routed = [
                r["upstream_id"]
                for rows in catalog.routes(tx).values()
                for r in rows
                if r["provider_id"] == row["id"]
            ]
            engine = _serving_engine(self, tx)
            wants = _wanted_for_proxy(self, tx, row)
        cheap = _CHEAP_MODELS[row["kind"]]
        chosen = model or (cheap if cheap in routed or not routed else routed[0])
        if not has_key(row, self.desk.env):
            where = row["api_key_env"] or row["api_key_file"]
            return ProviderTest(row["name"], False, chosen, 0, f"its key is missing: {where}")
        if wants is not None:
            message = f"every call over its proxy is refused: it wants {wants} for `sellapi serve`"
            return ProviderTest(row["name"], False, chosen, 0, message)
        ok, latency_ms, message = probe(domain_provider(row), chosen, engine)
        return ProviderTest(row["name"], ok, chosen, latency_ms, clean(message))


def domain_provider(row: Mapping[str, Any]) -> DomainProvider:
    return DomainProvider(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        base_url=row["base_url"],
        api_key_env=row["api_key_env"],
        api_key_file=row["api_key_file"],
        headers=json.loads(row["headers"]),
        max_connections=row["max_connections"],
        timeout_s=row["timeout_ms"] / 1000,
        proxy=row["proxy"],
        enabled=bool(row["enabled"]),
    )
