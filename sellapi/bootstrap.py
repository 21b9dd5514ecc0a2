"""Settings → services. The only file that names concrete classes."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from sellapi import __version__
from sellapi.domain.catalog import Catalog
from sellapi.errors import StorageError
from sellapi.gateway.forward import Forwarder
from sellapi.gateway.limiter import Limiter
from sellapi.gateway.pipeline import Gateway
from sellapi.gateway.router import Router
from sellapi.gateway.shop import Shop
from sellapi.gateway.stats import Stats
from sellapi.settings import Settings
from sellapi.storage.database import Database
from sellapi.storage.journal import Instance, sweep_dead
from sellapi.storage.writer import Writer
from sellapi.upstream.engines import build_engine
from sellapi.upstream.registry import Registry

__all__ = ["Services"]

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0
SWEEP_EVERY_S = 60.0


class Services:
    """Everything a server process runs, and its life: `prepare`, `start`, `stop`.

    `prepare` is synchronous and comes before listening, `start` inside the event loop, `stop` after
    the server has ended (the writer must outlive the last request).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database.open(settings.database)
        self.stats = Stats()
        self.writer = Writer(self.database)
        self.instance = Instance(self.database)
        self.registry = Registry(
            partial(build_engine, settings.engine),
            connect_timeout_s=settings.connect_timeout,
            trust_private=settings.private_providers,
        )
        self.router = Router(self.registry)
        self.shop = Shop(self.database, self.registry, help_url=settings.help_url)
        self.limiter = Limiter()
        self.gateway = Gateway(
            shop=self.shop,
            limiter=self.limiter,
            forwarder=Forwarder(
                self.registry,
                self.router,
                self.stats,
                stream_idle_s=settings.stream_idle_timeout,
            ),
            writer=self.writer,
            stats=self.stats,
            instance_id=self.instance.id,
            help_url=settings.help_url,
        )
        self.longest_wait_s = 600.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started_at = time.time()

    # -- life --------------------------------------------------------------------------------------

    def prepare(self) -> int:
        """Void the holds of dead processes and register this one; returns how many were swept."""
        swept = sweep_dead(self.database)
        self.instance.register()
        with self.database.read() as tx:
            longest = tx.value(
                "SELECT max(timeout_ms) FROM "
                "(SELECT timeout_ms FROM providers UNION ALL SELECT timeout_ms FROM routes)"
            )
        self.longest_wait_s = max(600.0, (longest or 0) / 1000)
        return swept

    async def start(self) -> Gateway:
        """Start the writer and what runs beside requests; returns the gateway, ready to serve."""
        self.writer.start()
        await self.shop.refresh()
        self.spawn(self._report_status())
        self.spawn(self._sweep())
        gc.collect()
        gc.freeze()  # what exists now lives as long as the process: no need to look at it again
        gc.set_threshold(50_000, 20, 20)
        return self.gateway

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task that lives as long as the server."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the side tasks and the connections to providers; inside the event loop."""
        self.gateway.closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.registry.close()

    def stop(self) -> None:
        """Finish writing and sign off; call it after the server has ended."""
        if self.writer.stop():
            try:
                self.instance.unregister()
            except StorageError as error:
                log.warning("could not sign off: %s", error)
        self.database.close()

    @staticmethod
    def leave_one_file() -> None:
        """At the end of the process: close what connections are left.

        Who closes a database last copies its log into it (sqlite.org/wal.html, 2). Connections of
        threads that ended stand in cycles with the driver's cache, and `start` froze the first of them.
        """
        gc.unfreeze()
        gc.collect()

    # -- beside requests -----------------------------------------------------------------------------

    async def _report_status(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            try:
                await self._cancel_suspended()
                status = self.status(await self.shop.catalog())
                await self.writer.submit(self.stats.take_flush(self.instance.id, status))
                told = ""
            except Exception as error:
                if str(error) != told:  # once, not once a second
                    log.warning("the status row is not written: %s", error)
                told = str(error)

    async def _cancel_suspended(self) -> None:
        """End the running requests of accounts suspended with ``--now`` (they settle)."""
        holds = list(self.gateway.in_flight.values())
        if not holds:
            return
        ids = {h.caller.account_id for h in holds}

        def read() -> set[int]:
            with self.database.read() as tx:
                marks = ",".join("?" * len(ids))
                return {
                    row[0]
                    for row in tx.execute(
                        f"SELECT id FROM accounts WHERE stop_running = 1 AND id IN ({marks})",
                        tuple(ids),
                    )
                }

        stopped = await asyncio.to_thread(read)
        for hold in holds:
            if hold.caller.account_id in stopped and not hold.suspended and hold.task is not None:
                hold.suspended = True
                hold.task.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.limiter.expire()
            try:
                swept = await asyncio.to_thread(sweep_dead, self.database, self.instance.id)
                if swept:
                    log.warning("gave back %d holds of a server that died", swept)
            except StorageError as error:
                log.warning("the sweep waits: %s", error)

    # -- reports -------------------------------------------------------------------------------------

    def status(self, catalog: Catalog) -> dict[str, Any]:
        """What screens and ``sellapi status`` show of this process."""
        routes = {
            r.id: f"{r.provider.name}:{r.upstream_id}"
            for m in catalog.models.values()
            for r in m.routes
        }
        holds = sorted(self.gateway.in_flight.values(), key=lambda h: h.started)[:50]
        now = time.monotonic()
        trouble = self.writer.trouble()
        return {
            "version": __version__,
            "engine": self.settings.engine,
            "uptime_s": int(time.time() - self._started_at),
            "in_flight": len(self.gateway.in_flight),
            "requests": [
                {
                    "request_id": h.request_id,
                    "account_id": h.caller.account_id,
                    "model": h.model.slug,
                    "seconds": round(now - h.started, 1),
                    "stream": h.asked.stream,
                }
                for h in holds
            ],
            "routes": self.router.report(routes),
            "providers": [
                *(
                    {"name": link.provider.name, "usable": link.usable}
                    for link in self.registry.links()
                ),
                *(
                    {"name": provider.name, "usable": False, "broken": True}
                    for provider in self.registry.broken()
                ),
            ],
            "skipped_parts": self.stats.skipped,
            "trouble": None if trouble is None else str(trouble),
            "memory_bytes": _memory_bytes(),
        }

    def readiness(self) -> dict[str, dict[str, Any]]:
        """The checks of GET /ready: each ``{ok, detail}``, and the routes in figures. Blocking."""
        checks: dict[str, dict[str, Any]] = {}
        try:
            with self.database.read() as tx:
                tx.value("SELECT version FROM catalog_state")
            self.database.schema_version()
            checks["database"] = {"ok": True, "detail": "answers"}
        except StorageError as error:
            checks["database"] = {"ok": False, "detail": str(error)}
        trouble = self.writer.trouble()
        checks["ledger"] = {
            "ok": trouble is None and not self.gateway.closing,
            "detail": "takes holds" if trouble is None else str(trouble),
        }
        usable = [link.provider.name for link in self.registry.links() if link.usable]
        checks["providers"] = {
            "ok": bool(usable),
            "detail": f"{len(usable)} usable"
            if usable
            else "none can be called: see `sellapi doctor`",
            **self.router.summary(),
        }
        return checks


def _memory_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
