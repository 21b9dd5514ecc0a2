"""The demo shop: everything to try offline, in a database of its own."""

from __future__ import annotations

from sellapi.admin.service import Admin
from sellapi.admin.setup import fill
from sellapi.domain.credits import MICRO
from sellapi.storage import catalog

__all__ = ["DEMO_EMAIL", "DEMO_SLUGS", "stock_demo"]

DEMO_EMAIL = "demo@example.com"
DEMO_SLUGS = (
    "anthropic/claude-sonnet-4.6",
    "openai/gpt-5.4",
    "openai/gpt-6-luna",
    "openai/text-embedding-3-small",
    "google/imagen-4.0-generate-001",
)
"""The slugs of the user's API document and a free one."""
DEMO_URL = "http://demo.invalid/v1"
_ENOUGH = 100_000 * MICRO


def stock_demo(admin: Admin) -> str:
    """Fill the demo database, mint a fresh key (the old ones are revoked) and return it."""
    fill(admin.users)
    _route_to_demo(admin)
    if not any(user.email == DEMO_EMAIL for user in admin.users.list(search=DEMO_EMAIL).items):
        admin.users.add(DEMO_EMAIL, name="Demo")
    user = admin.users.show(DEMO_EMAIL)
    if user.tier != "pro" or user.available < _ENOUGH:
        largest = max(admin.packs.list(retired=False), key=lambda pack: pack.credits)
        admin.packs.sell(DEMO_EMAIL, largest.slug)
    for key in admin.keys.list(DEMO_EMAIL).items:
        if key.status == "active":
            admin.keys.revoke(key.id)
    return admin.keys.create(DEMO_EMAIL, name="demo").key


def _route_to_demo(admin: Admin) -> None:
    """Every demo slug is answered in process; providers that need a network are switched off."""
    with admin.users.act("demo.stock") as act:
        if catalog.provider(act.tx, "demo"):
            act.nothing_done()
            return
        now = admin.desk.now()
        catalog.disable_providers(act.tx)
        provider = catalog.add_provider(
            act.tx,
            {"name": "demo", "kind": "demo", "base_url": DEMO_URL, "created_at": now},
        )
        for slug in DEMO_SLUGS:
            row = catalog.model(act.tx, slug)
            assert row is not None, f"the default catalog has no {slug}"
            catalog.remove_routes(act.tx, row["id"])
            route = {"model_id": row["id"], "provider_id": provider}
            catalog.add_route(act.tx, {**route, "upstream_id": slug.partition("/")[2]})
        act.say("shop", after={"demo": list(DEMO_SLUGS)})
