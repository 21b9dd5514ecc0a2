"""A shop to measure: the default catalog, models on the stand-ins, accounts with plenty of credits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sellapi.admin.service import Admin
from sellapi.admin.setup import init
from sellapi.storage.database import Database

__all__ = ["JOBS", "KEY_ENV", "Job", "open_desk", "stock", "stock_catalog"]

KEY_ENV = "BENCH_PROVIDER_KEY"
UNLIMITED = 1_000_000_000
"""Requests a minute: what is measured is the path, not the limit."""


@dataclass(frozen=True, slots=True)
class Job:
    """A kind of request: its model here, and where the same goes when sent to a stand-in directly."""

    name: str
    kind: str
    upstream: str
    base: str
    """Path of the provider's base URL on its stand-in."""
    rest: str
    """What the provider's own protocol puts behind the base."""
    stream: bool = False
    paced: bool = False

    @property
    def model(self) -> str:
        return f"bench/{self.name}"

    @property
    def path(self) -> str:
        return self.base + self.rest


_CHAT = "/chat/completions"
_CLAUDE, _GEMINI = "claude-haiku-4-5", "gemini-2.5-flash-lite"
_GENERATE = f"/v1beta/models/{_GEMINI}"

JOBS = {
    job.name: job
    for job in (
        Job("plain", "openai", "gpt-bench", "/plain/v1", _CHAT),
        Job("burst", "openai", "gpt-bench", "/burst/v1", _CHAT, stream=True),
        Job("claude", "anthropic", _CLAUDE, "/claude", "/v1/messages"),
        Job("claude-burst", "anthropic", _CLAUDE, "/claude-burst", "/v1/messages", stream=True),
        Job("gemini", "gemini", _GEMINI, "/gemini", f"{_GENERATE}:generateContent"),
        Job(
            "gemini-burst",
            "gemini",
            _GEMINI,
            "/gemini-burst",
            f"{_GENERATE}:streamGenerateContent?alt=sse",
            stream=True,
        ),
        # The first event comes late enough that 256 and 1,000 streams both offer 38,000 events/s.
        Job("paced-5ms", "openai", "gpt-bench", "/paced/92/5/v1", _CHAT, stream=True, paced=True),
        Job(
            "paced-20ms", "openai", "gpt-bench", "/paced/320/20/v1", _CHAT, stream=True, paced=True
        ),
        Job("first-byte", "openai", "gpt-bench", "/paced/0/10/v1", _CHAT, stream=True, paced=True),
    )
}


def open_desk(path: Path) -> Admin:
    """The operator's side of an existing database."""
    return Admin(Database.open(path), actor="bench", via="cli", env={KEY_ENV: "sk-bench"})


def stock_catalog(admin: Admin, static_port: int, paced_port: int) -> None:
    """Providers and models of `JOBS`, and no rate limit; on a shop that has them, new ports."""
    there = {p.name for p in admin.providers.list()}
    for job in JOBS.values():
        port = paced_port if job.paced else static_port
        url = f"http://127.0.0.1:{port}{job.base}"
        name = f"bench-{job.name}"
        if name in there:
            admin.providers.set(name, base_url=url)
            continue
        admin.providers.add(
            name, kind=job.kind, base_url=url, api_key_env=KEY_ENV, max_connections=4096
        )
        admin.models.add(
            job.model,
            mode="chat",
            provider=name,
            upstream=job.upstream,
            prices={"input": "1", "output": "2"},
            tier="free",
            context=1_000_000,
            max_output=8_192,
            modalities="text,image",
        )
    for tier in ("free", "pro"):
        admin.tiers.set(tier, rpm=UNLIMITED, account_rpm=UNLIMITED)


def stock(path: Path, static_port: int, paced_port: int, accounts: int) -> tuple[str, ...]:
    """A new shop at ``path``; returns one key of each account."""
    init(path, actor="bench", via="cli", env={})
    admin = open_desk(path)
    try:
        stock_catalog(admin, static_port, paced_port)
        keys = []
        for number in range(accounts):
            email = f"bench-{number}@shop.test"
            admin.users.add(email)
            admin.credits.grant(email, "5000000000", reason="bench")
            keys.append(admin.keys.create(email).key)
        return tuple(keys)
    finally:
        admin.desk.database.close()
