"""A shop with a past: users, sales and requests of a month, for screenshots and tests of screens.

Everything goes through the admin service and the ledger, with a clock of its own, so that
`sellapi ledger verify` finds it sound. The same seed makes the same shop.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sellapi.admin.service import Admin  # noqa: E402
from sellapi.admin.setup import init  # noqa: E402
from sellapi.domain.pricing import Prices, charge  # noqa: E402
from sellapi.domain.usage import Usage  # noqa: E402
from sellapi.storage import ledger  # noqa: E402
from sellapi.storage.database import Database, Tx  # noqa: E402
from sellapi.storage.journal import Instance, MinuteStats, flush_stats  # noqa: E402

ENV = {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x", "GEMINI_API_KEY": "x"}
PEOPLE = (
    ("ana.sousa@lusitano.dev", "Ana Sousa"),
    ("bot@helpdesk-nord.example", "Helpdesk Nord"),
    ("chen.wei@kaleido.example", "Chen Wei"),
    ("dev@fern-and-moss.example", "Fern & Moss"),
    ("elif@atolye.example", "Elif Kaya"),
    ("farid@routeplanner.example", "Farid Rahimi"),
    ("grace@inkwell.example", "Grace Okafor"),
    ("hannah@studio-mitte.example", "Hannah Vogel"),
    ("ingrid@fjordtext.example", "Ingrid Dahl"),
    ("jobs@nightly-reports.example", "Nightly reports"),
    ("kenji@torii-labs.example", "Kenji Mori"),
    ("lucia@olivar.example", "Lucía Romero"),
    ("mateo@pampa.example", "Mateo Díaz"),
    ("noor@lettersmith.example", "Noor Haddad"),
    ("ops@paperboat.example", "Paperboat"),
    ("priya@monsoon.example", "Priya Nair"),
    ("quentin@bonmot.example", "Quentin Roux"),
    ("rosa@translate-co.example", "Translate Co"),
    ("sven@kiosk24.example", "Sven Lind"),
    ("tomasz@wisla-soft.example", "Tomasz Zając"),
)
CHATS = (
    ("anthropic/claude-sonnet-4.6", 30),
    ("openai/gpt-5.4", 26),
    ("anthropic/claude-haiku-5.5", 14),
    ("google/gemini-2.5-flash-lite", 12),
    ("openai/gpt-6-luna", 8),
    ("openai/text-embedding-3-small", 10),
)
FREE = ("anthropic/claude-haiku-5.5", "google/gemini-2.5-flash-lite", "openai/gpt-6-luna",
        "openai/text-embedding-3-small")  # fmt: skip


@dataclass
class _Model:
    slug: str
    mode: str
    price_id: int
    prices: Prices
    cost: Prices
    provider: str
    upstream: str


class DemoShop:
    """A database being filled; `serve` makes it look served by this process."""

    def __init__(self, path: Path, *, now: float | None = None, seed: int = 7) -> None:
        self.now = time.time() if now is None else now
        self.at = self.now - 30 * 86_400
        self.random = random.Random(seed)  # noqa: S311 (a demo, no secret)
        init(path, actor="operator", via="cli", env=ENV, clock=lambda: self.at)
        self.database = Database.open(path)
        self.admin = Admin(
            self.database, actor="operator", via="cli", env=ENV, clock=lambda: self.at
        )
        self._wholesale()
        self.minutes: dict[int, MinuteStats] = {}
        self.instance: Instance | None = None
        self._names = 0

    def _wholesale(self) -> None:
        """What providers charge is less than list, so that margins look like margins."""
        with self.database.transaction() as tx:
            for route, text in tx.execute("SELECT id, cost FROM routes").fetchall():
                cost = json.loads(text or "{}")
                for name, value in cost.items():
                    if isinstance(value, int) and name != "long_context":
                        cost[name] = value * self.random.randint(70, 92) // 100
                tx.execute("UPDATE routes SET cost = ? WHERE id = ?", (json.dumps(cost), route))

    # -- people and sales ----------------------------------------------------------------------

    def people(self, count: int = len(PEOPLE)) -> None:
        """Users with keys and packs, spread over the month before."""
        for number, (email, name) in enumerate(PEOPLE[:count]):
            self.at = self.now - 30 * 86_400 + number * 4_000
            self.admin.users.add(email, name=name)
            self.admin.keys.create(email, name=self.random.choice(("laptop", "server", "ci", "")))
            if number % 4 != 3:
                pack = ("pro", "starter", "pro", "scale")[number % 4]
                known = [p.slug for p in self.admin.packs.list(retired=False)]
                slug = pack if pack in known else known[number % len(known)]
                for again in range(1 + number % 3):
                    self.at = self.now - (29 - again * 9) * 86_400 + number * 3_111
                    self.admin.packs.sell(email, slug, reference=f"INV-{number:02}{again:02}")
        self.at = self.now - 7_200
        if count > 12:
            self.admin.users.suspend(PEOPLE[12][0])
            self.admin.credits.grant(PEOPLE[4][0], "2500", reason="sorry for the outage on Friday")
            self.admin.keys.create(PEOPLE[0][0], name="staging", limit="50000", expires="90d")
            self.admin.packs.sell(PEOPLE[6][0], "starter", reference="INV-today-1")
            self.admin.packs.sell(PEOPLE[1][0], "starter", reference="INV-today-2")

    # -- requests ------------------------------------------------------------------------------

    def past(self, days: int = 30, a_day: int = 70, today: int = 2_000, hour: int = 500) -> None:
        """Requests: some a day for a month, more in the last day, most in the last hour."""
        times: list[float] = []
        for day in range(2, days):
            times += [self.now - day * 86_400 + self.random.random() * 86_400 for _ in range(a_day)]
        while len(times) < (days - 2) * a_day + today:
            at = self.random.random() * 86_400
            busy = 0.55 - 0.45 * math.cos(2 * math.pi * (at / 86_400 - 0.1))
            if self.random.random() < busy:
                times.append(self.now - 86_400 + at)
        while hour:
            at = self.random.random() * 3_600
            if self.random.random() < 0.55 + 0.45 * math.sin(at / 260):
                times.append(self.now - 3_600 + at)
                hour -= 1
        times.sort()
        models, callers = self._models(), self._callers()
        for start in range(0, len(times), 500):
            with self.database.transaction() as tx:
                for at in times[start : start + 500]:
                    self._request(tx, at, models, callers)
        self._flush()

    def _models(self) -> dict[str, _Model]:
        found = {}
        with self.database.read() as tx:
            for row in tx.rows(
                "SELECT m.slug, m.mode, r.upstream_id, r.cost, v.name AS provider, p.id AS price, "
                "p.prices FROM models m JOIN routes r ON r.model_id = m.id "
                "JOIN providers v ON v.id = r.provider_id JOIN prices p ON p.model_id = m.id "
                "GROUP BY m.id"
            ):
                cost = json.loads(row["cost"] or "{}")
                found[row["slug"]] = _Model(
                    row["slug"],
                    row["mode"],
                    row["price"],
                    Prices.from_json(json.loads(row["prices"])),
                    Prices.from_json(cost),
                    row["provider"],
                    row["upstream_id"],
                )
        return found

    def _callers(self) -> list[dict[str, Any]]:
        with self.database.read() as tx:
            return tx.rows(
                "SELECT k.id AS key_id, k.version AS key_version, a.id, a.version, a.tier "
                "FROM keys k JOIN accounts a ON a.id = k.account_id WHERE a.status = 'active'"
            )

    def _request(
        self, tx: Tx, at: float, models: dict[str, _Model], callers: list[dict[str, Any]]
    ) -> None:
        dice = self.random
        caller = callers[min(int(dice.expovariate(0.22)), len(callers) - 1)]
        slugs, weights = zip(*CHATS, strict=True)
        slug = dice.choices(slugs, weights)[0] if caller["tier"] == "pro" else dice.choice(FREE)
        model = models[slug]
        self._names += 1
        name = f"req_{self.random.getrandbits(64):016x}{self._names:05x}"
        usage = self._usage(model)
        price = charge(model.prices, usage)
        took = int(dice.lognormvariate(7.2, 0.6)) if model.mode == "chat" else dice.randint(90, 400)
        held = ledger.hold(
            tx,
            ledger.HoldRequest(
                request_id=name,
                amount=price * 2,
                account_id=caller["id"],
                account_version=caller["version"],
                key_id=caller["key_id"],
                key_version=caller["key_version"],
                catalog_version=tx.catalog_version,
                instance_id="past",
                model=slug,
                mode=model.mode,
                price_id=model.price_id,
                streamed=model.mode == "chat" and dice.random() < 0.7,
                bounded=False,
                created_ms=int(at * 1000),
            ),
        )
        if not isinstance(held, ledger.Held):
            return
        running = at > self.now - 2 and dice.random() < 0.8
        if running:
            return
        failed = dice.random() < 0.012
        minute = self.minutes.setdefault(int(at + took / 1000) // 60, MinuteStats())
        minute.requests += 1
        minute.errors += failed
        minute.latency_ms_sum += took
        minute.latency_ms_max = max(minute.latency_ms_max, took)
        end = int(at * 1000) + took
        if failed:
            ledger.void(
                tx, name, now_ms=end, http_status=502, error="upstream_error",
                provider=model.provider, upstream_id=model.upstream,
            )  # fmt: skip
        else:
            cost = charge(model.cost, usage)
            minute.tokens += usage.total_input + usage.output
            minute.charged += price
            minute.cost += cost
            raw = {"prompt_tokens": usage.total_input, "completion_tokens": usage.output,
                   "prompt_tokens_details": {"cached_tokens": usage.cache_read}}  # fmt: skip
            ledger.settle(
                tx,
                ledger.Settlement(
                    request_id=name,
                    charge=price,
                    usage=json.dumps(usage.buckets()),
                    usage_raw=json.dumps(raw),
                    input_tokens=usage.total_input,
                    output_tokens=usage.output,
                    images=0,
                    estimated=dice.random() < 0.02,
                    bounded=False,
                    provider=model.provider,
                    upstream_id=model.upstream,
                    finished_ms=end,
                    first_byte_ms=int(at * 1000) + max(60, took // 4),
                    cost=cost,
                    finish_reason="tool_calls" if dice.random() < 0.12 else "stop",
                ),
            )
        tx.execute("UPDATE requests SET delivery = 1 WHERE request_id = ?", (name,))

    def _usage(self, model: _Model) -> Usage:
        dice = self.random
        if model.mode == "embedding":
            return Usage(input=dice.randint(8, 900))
        cached = dice.randint(500, 2_500) if dice.random() < 0.35 else 0
        return Usage(
            input=int(dice.lognormvariate(6.2, 0.9)),
            cache_read=cached,
            output=int(dice.lognormvariate(5.6, 0.8)),
        )

    def _flush(self) -> None:
        refused = {}
        for minute in range(int(self.now) // 60 - 60, int(self.now) // 60):
            if self.random.random() < 0.3:
                refused[minute, self.random.choice(("429", "402"))] = self.random.randint(1, 6)
        with self.database.transaction() as tx:
            flush_stats(tx, "", {}, self.minutes, refused)

    # -- a server that is only told of ---------------------------------------------------------

    def serve(self) -> None:
        """Register this process as a server, with a status like one under load."""
        self.instance = Instance(self.database)
        self.instance.register()
        self.beat()

    def beat(self) -> None:
        """Write the status row again: screens believe it for ten seconds."""
        assert self.instance is not None
        routes = [
            ("openai:gpt-5.4", 3, 812.4, 0, ""),
            ("anthropic:claude-sonnet-4-6", 4, 1_240.9, 0, ""),
            ("gemini:gemini-2.5-flash-lite", 0, 431.0, 24, "overloaded"),
        ]
        status = {
            "version": "0.1.0",
            "uptime_s": 93_000,
            "in_flight": 7,
            "requests": [],
            "routes": [
                {
                    "route": name, "in_flight": flying, "latency_ms": latency, "failures": 0,
                    "cooling_s": cools, "last_failure": why, "last_failure_at": 0,
                    "key_refused": False,
                }
                for name, flying, latency, cools, why in routes
            ],
            "providers": [{"name": p.name, "usable": True} for p in self.admin.providers.list()],
            "trouble": None,
        }  # fmt: skip
        with self.database.transaction() as tx:
            flush_stats(tx, self.instance.id, status, {}, {})

    def close(self) -> None:
        """Sign off; the file stays."""
        if self.instance is not None:
            self.instance.unregister()
        self.database.close()


def build(path: Path) -> DemoShop:
    """The whole demo shop."""
    shop = DemoShop(path)
    shop.people()
    shop.past()
    return shop


if __name__ == "__main__":
    target = Path(sys.argv[1])
    build(target).close()
    print(f"a month's business stands in {target}")
