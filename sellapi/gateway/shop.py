"""What the gateway knows of the shop: the catalog and its callers, cached, and read again when stale.

Cached copies may be used for anything the hold transaction confirms. A refusal decided by a cached
copy is confirmed by reading again first, so that an operator's change holds for the next request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import OrderedDict

from sellapi.domain.catalog import Catalog, Model, Tier
from sellapi.domain.keys import hash_key, looks_like_a_key
from sellapi.errors import InvalidApiKey, ModelNotFound, Overloaded, StorageError, TierRestricted
from sellapi.storage.database import Database, Tx
from sellapi.storage.snapshot import Caller, read_caller, read_catalog
from sellapi.upstream.registry import Registry

__all__ = ["Shop"]

log = logging.getLogger(__name__)

CALLERS_MAX = 100_000
BAD_KEY_DELAY_S = 0.25
BAD_KEY_DELAY_MAX_S = 1.0
BAD_KEYS_REMEMBERED = 10_000


class Shop:
    """Catalog and callers of one process."""

    def __init__(self, database: Database, registry: Registry, *, help_url: str = "") -> None:
        self._database = database
        self._registry = registry
        self._help = f" See {help_url}" if help_url else ""
        self._catalog: Catalog | None = None
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._bad_keys: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._looked: OrderedDict[int, float] = OrderedDict()
        self._reading: asyncio.Task[Catalog] | None = None

    # -- reading -----------------------------------------------------------------------------------

    def _load_catalog(self) -> Catalog:
        with self._database.read() as tx:
            tx.execute("BEGIN")
            try:
                return read_catalog(tx, time.time())
            finally:
                tx.execute("ROLLBACK")

    def _load_caller(self, digest: bytes) -> Caller | None:
        with self._database.read() as tx:
            return read_caller(tx, digest)

    def _catalog_is_current(self, version: int) -> bool:
        with self._database.read() as tx:
            return Tx(tx.connection).catalog_version == version

    async def refresh(self) -> Catalog:
        """Read the catalog again; parallel callers share one reading."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._refresh())
        return await asyncio.shield(self._reading)

    async def _refresh(self) -> Catalog:
        catalog: Catalog = await asyncio.to_thread(_unavailable, self._load_catalog)
        providers = {r.provider.id: r.provider for m in catalog.models.values() for r in m.routes}
        for provider, why in self._registry.sync(providers.values()):
            log.warning(
                "provider %s cannot be set up (%s) and is not called: see its base URL and proxy",
                provider.name,
                why,
            )
        self._catalog = catalog
        return catalog

    async def catalog(self) -> Catalog:
        """The catalog as last read, or freshly when a scheduled price has taken over."""
        catalog = self._catalog
        if catalog is None or (
            catalog.next_change_at is not None and time.time() >= catalog.next_change_at
        ):
            return await self.refresh()
        return catalog

    async def current_catalog(self) -> Catalog:
        """The catalog as it is in the database now (for GETs and before a refusal)."""
        catalog = await self.catalog()
        if await asyncio.to_thread(_unavailable, self._catalog_is_current, catalog.version):
            return catalog
        return await self.refresh()

    # -- who calls ---------------------------------------------------------------------------------

    async def authenticate(
        self, authorization: str | None, address: str, *, fresh: bool = False
    ) -> Caller:
        """The caller of a request; raises `InvalidApiKey` (after a pause when they come often).

        ``fresh`` reads the database whatever is cached.
        """
        secret = _bearer(authorization)
        digest = hash_key(secret) if secret and looks_like_a_key(secret) else None
        if digest is not None:
            caller = None if fresh else self._callers.get(digest)
            if caller is not None and self._trouble(caller, address) is None:
                return caller
            caller = await asyncio.to_thread(_unavailable, self._load_caller, digest)
            if caller is not None:
                self._remember(digest, caller)
                trouble = self._trouble(caller, address)
                if trouble is None:
                    return caller
                raise InvalidApiKey(trouble + self._help)
        await self._slow_down(address)
        if not authorization:
            message = (
                "No API key was sent: set the header 'Authorization: Bearer sk-sellapi-…' "
                "(in the OpenAI SDK: api_key)."
            )
        else:
            message = "The API key is not valid: check that it was copied whole."
        raise InvalidApiKey(message + self._help)

    def may_look_again(self, caller: Caller) -> bool:
        """Whether a refusal that floods cause may be confirmed by the database: once a second."""
        now = time.monotonic()
        if now - self._looked.get(caller.key_id, float("-inf")) < 1.0:
            return False
        self._looked[caller.key_id] = now
        self._looked.move_to_end(caller.key_id)
        if len(self._looked) > BAD_KEYS_REMEMBERED:
            self._looked.popitem(last=False)
        return True

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._callers[digest] = caller
        self._callers.move_to_end(digest)
        if len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)

    def _trouble(self, caller: Caller, address: str) -> str | None:
        now = time.time()
        if caller.key_status != "active":
            return "This API key was revoked: use another one."
        if caller.key_expires_at is not None and now >= caller.key_expires_at:
            return "This API key has expired: ask for a new one."
        if caller.secret_expires_at is not None and now >= caller.secret_expires_at:
            return "This API key was rotated and its grace period is over: use the new one."
        if caller.account_status != "active":
            return "This account is suspended: ask the operator of this service."
        if caller.ips is not None and not _allowed(address, caller.ips):
            return "This API key may not be used from your address."
        return None

    async def _slow_down(self, address: str) -> None:
        """Delay bad keys of one address, at most a second; good keys never come here."""
        now = time.monotonic()
        count, since = self._bad_keys.get(address, (0, now))
        if now - since > 60:
            count, since = 0, now
        self._bad_keys[address] = (count + 1, since)
        self._bad_keys.move_to_end(address)
        if len(self._bad_keys) > BAD_KEYS_REMEMBERED:
            self._bad_keys.popitem(last=False)
        if count >= 5:
            await asyncio.sleep(min(BAD_KEY_DELAY_MAX_S, BAD_KEY_DELAY_S * (count - 4)))

    # -- what is asked for -------------------------------------------------------------------------

    def tier(self, catalog: Catalog, caller: Caller) -> Tier:
        return catalog.tiers[caller.tier]

    def sellable(self, model: Model) -> bool:
        """Enabled, priced, and at least one of its providers can be called."""
        if model.enabled:
            for route in model.routes:
                if self._registry.usable(route.provider):
                    return True
        return False

    def available_to(self, model: Model, caller: Caller) -> bool:
        """Whether a key's tier and allowlist admit a model."""
        return (model.tier == "free" or caller.tier == "pro") and (
            caller.models is None or model.slug in caller.models
        )

    def admit(self, catalog: Catalog, caller: Caller, slug: str, mode: str) -> Model:
        """The model asked for; raises `ModelNotFound` or `TierRestricted`."""
        model = catalog.models.get(slug)
        if model is None or not self.sellable(model) or model.mode != mode:
            raise ModelNotFound(_not_found(model, slug, mode), param="model")
        if caller.models is not None and slug not in caller.models:
            raise ModelNotFound(
                f"This API key may not use the model '{slug}': it is limited to "
                f"{', '.join(sorted(caller.models))}.",
                param="model",
            )
        if model.tier != "free" and caller.tier != "pro":
            raise TierRestricted(
                f"The model '{slug}' needs the Pro tier: buy any credit pack to upgrade, or use a "
                f"free model (see GET /v1/models).{self._help}",
                param="model",
            )
        return model


def _not_found(model: Model | None, slug: str, mode: str) -> str:
    if model is not None and model.enabled and model.mode != mode:
        use = {
            "chat": "/v1/chat/completions",
            "embedding": "/v1/embeddings",
            "image": "/v1/images/generations",
        }[model.mode]
        return f"The model '{slug}' is not for this route: use POST {use}."
    shown = slug if len(slug) <= 100 else slug[:100] + "…"
    return f"There is no model '{shown}' here: see GET /v1/models for what is offered."


def _bearer(authorization: str | None) -> str | None:
    """The key of an ``Authorization: Bearer KEY`` header; the scheme is case-insensitive."""
    scheme, _, secret = (authorization or "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _allowed(address: str, networks: tuple[str, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in ipaddress.ip_network(network, strict=False) for network in networks)


def _unavailable(read, *args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
    """A read whose database trouble is the client's 503, never a 401."""
    try:
        return read(*args)
    except StorageError as error:
        raise Overloaded(
            "The service cannot read its database right now; try again shortly.", retry_after=2
        ) from error
