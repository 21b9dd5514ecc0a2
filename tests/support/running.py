"""A real gateway on a real port, inside the test's own event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanic import Sanic

from sellapi.api.app import create_app
from sellapi.api.protocol import GuardedProtocol
from sellapi.bootstrap import Services
from sellapi.domain import keys
from sellapi.domain.credits import MICRO
from sellapi.settings import Settings
from sellapi.storage import ledger
from sellapi.storage.database import Database

_names = itertools.count()
_empty_shop: list[bytes] = []


@dataclass
class Shopkeeper:
    """Short hands for stocking a database in a test; the acts of people are tested elsewhere."""

    database: Database

    @classmethod
    def open(cls, path: Path) -> Shopkeeper:
        """A shop with its tiers, nothing else; made once a test run and copied from then on."""
        if not _empty_shop:
            database = Database.create(path)
            with database.transaction() as tx:
                tx.execute("INSERT INTO tiers VALUES ('free', 20, 60, 10000000000)")
                tx.execute("INSERT INTO tiers VALUES ('pro', 600, 3000, 10000000000)")
            database.raw().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _empty_shop.append(path.read_bytes())
        else:
            path.touch(mode=0o600)
            path.write_bytes(_empty_shop[0])
            database = Database.open(path)
        database.raw().execute("PRAGMA synchronous = OFF")  # the server's connections keep FULL
        return cls(database)

    def provider(self, name: str, base_url: str, kind: str = "openai", **columns: Any) -> int:
        columns = {"name": name, "kind": kind, "base_url": base_url, "created_at": 1, **columns}
        return self._insert("providers", columns)

    def model(
        self,
        slug: str,
        provider: int,
        *,
        mode: str = "chat",
        tier: str = "free",
        upstream: str | None = None,
        prices: dict[str, Any] | None = None,
        **columns: Any,
    ) -> int:
        if prices is None:
            prices = {"input": 1_000_000, "output": 2_000_000}
        row = {"slug": slug, "name": slug, "mode": mode, "tier": tier, "created_at": 1, **columns}
        model = self._insert("models", row)
        self.price(model, prices)
        self.route(model, provider, upstream or slug.rpartition("/")[2])
        return model

    def price(self, model: int, prices: dict[str, Any], at: int = 0) -> int:
        row = {
            "model_id": model,
            "effective_at": at,
            "prices": json.dumps(prices),
            "actor": "test",
            "created_at": int(time.time()),
        }
        return self._insert("prices", row)

    def route(self, model: int, provider: int, upstream: str, **columns: Any) -> int:
        return self._insert(
            "routes",
            {"model_id": model, "provider_id": provider, "upstream_id": upstream, **columns},
        )

    def user(self, email: str, *, tier: str = "free", grant: int = 10_000) -> int:
        account = self._insert("accounts", {"email": email, "tier": tier, "created_at": 1})
        if grant:
            with self.database.transaction() as tx:
                ledger.credit(tx, account, "grant", grant * MICRO, now_ms=1, actor="test")
        return account

    def key(self, account: int, **columns: Any) -> str:
        minted = keys.mint()
        key = self._insert("keys", {"account_id": account, "created_at": 1, **columns})
        row = {"digest": minted.digest, "key_id": key, "prefix": minted.prefix}
        self._insert("key_secrets", {**row, "last4": minted.last4, "created_at": 1})
        return minted.secret

    def execute(self, sql: str, *params: Any) -> None:
        with self.database.transaction() as tx:
            tx.execute(sql, params)

    def rows(self, sql: str, *params: Any) -> list[dict[str, Any]]:
        with self.database.read() as tx:
            return tx.rows(sql, params)

    def value(self, sql: str, *params: Any) -> Any:
        with self.database.read() as tx:
            return tx.value(sql, params)

    def account(self, account: int) -> dict[str, Any]:
        return self.rows("SELECT * FROM accounts WHERE id = ?", account)[0]

    def assert_sound(self) -> None:
        """Balances are the sums of their entries, held the sum of open holds; nothing is stuck."""
        for row in self.rows(
            "SELECT a.id, a.balance, a.held, a.owed, "
            "(SELECT coalesce(sum(amount), 0) FROM entries e WHERE e.account_id = a.id) AS b, "
            "(SELECT coalesce(sum(owed_change), 0) FROM entries e WHERE e.account_id = a.id) AS o, "
            "(SELECT coalesce(sum(hold), 0) FROM requests r WHERE r.account_id = a.id "
            " AND r.state = 'held') AS h FROM accounts a"
        ):
            assert (row["balance"], row["held"], row["owed"]) == (row["b"], row["h"], row["o"])

    def _insert(self, table: str, columns: dict[str, Any]) -> int:
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        with self.database.transaction() as tx:
            cursor = tx.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values())
            )
            return cursor.lastrowid or 0


@dataclass
class Running:
    """A gateway that serves; ``url`` ends in /v1."""

    origin: str
    services: Services
    app: Sanic[Any, Any]

    @property
    def url(self) -> str:
        return self.origin + "/v1"

    async def quiet(self) -> None:
        """Wait until nothing is in flight and the writer has written everything."""
        for _ in range(500):
            if not self.services.gateway.in_flight:
                break
            await asyncio.sleep(0.01)
        await self.services.writer.submit(lambda tx: None)
        await self.services.writer.submit(lambda tx: None)


@asynccontextmanager
async def running(database: Path, **settings: Any) -> AsyncIterator[Running]:
    """Serve ``database`` on a free port until the block ends."""
    services = Services(Settings.load({"database": str(database), **settings}, {}))
    services.prepare()
    number = next(_names)
    app = create_app(services, name=f"sellapi-test-{number}")
    app.config.TOUCHUP = number == 0  # Sanic rewrites its own classes once; twice it cannot
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server: Any = await app.create_server(
        sock=sock, protocol=GuardedProtocol, return_asyncio_server=True
    )
    await server.startup()
    await server.before_start()
    await server.after_start()
    await server.start_serving()
    try:
        yield Running(f"http://127.0.0.1:{sock.getsockname()[1]}", services, app)
    finally:
        server.close()
        await server.before_stop()
        await server.after_stop()
        services.stop()
        Sanic._app_registry.pop(app.name, None)
