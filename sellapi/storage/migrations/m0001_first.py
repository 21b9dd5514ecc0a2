"""The first schema: catalog, accounts, keys, ledger, requests, statistics, audit.

Amounts are microcredits unless a column says ``micro_usd``; times are unix milliseconds in columns
that end in ``_ms``, unix seconds in those that end in ``_at``. STRICT everywhere: an overflowing
INTEGER of an ordinary SQLite table silently becomes a REAL.
"""

from __future__ import annotations

from typing import Any

__all__ = ["apply"]

_TABLES = """
CREATE TABLE catalog_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;

CREATE TABLE tiers (
    name TEXT PRIMARY KEY CHECK (name IN ('free', 'pro')),
    rpm INTEGER NOT NULL CHECK (rpm >= 0),
    account_rpm INTEGER NOT NULL CHECK (account_rpm >= 0),
    signup_credits INTEGER NOT NULL CHECK (signup_credits >= 0)
) STRICT;

CREATE TABLE providers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('openai', 'anthropic', 'gemini', 'demo')),
    base_url TEXT NOT NULL,
    api_key_env TEXT,
    api_key_file TEXT,
    headers TEXT NOT NULL DEFAULT '{}',
    max_connections INTEGER NOT NULL DEFAULT 256 CHECK (max_connections > 0),
    timeout_ms INTEGER NOT NULL DEFAULT 600000 CHECK (timeout_ms > 0),
    proxy TEXT,
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE models (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('chat', 'embedding', 'image')),
    tier TEXT NOT NULL CHECK (tier IN ('free', 'pro')),
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    context_length INTEGER CHECK (context_length > 0),
    max_output INTEGER CHECK (max_output > 0),
    input_modalities TEXT NOT NULL DEFAULT '["text"]',
    allowed_fields TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE prices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id INTEGER NOT NULL REFERENCES models (id),
    effective_at INTEGER NOT NULL,
    prices TEXT NOT NULL,
    actor TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX prices_model ON prices (model_id, effective_at, id);

CREATE TABLE routes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id INTEGER NOT NULL REFERENCES models (id),
    provider_id INTEGER NOT NULL REFERENCES providers (id),
    upstream_id TEXT NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    weight INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),
    timeout_ms INTEGER CHECK (timeout_ms > 0),
    max_concurrency INTEGER CHECK (max_concurrency > 0),
    retry_on_timeout INTEGER NOT NULL DEFAULT 0 CHECK (retry_on_timeout IN (0, 1)),
    cost TEXT,
    UNIQUE (model_id, provider_id, upstream_id)
) STRICT;

CREATE TABLE packs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE,
    credits INTEGER NOT NULL CHECK (credits > 0),
    price_micro_usd INTEGER NOT NULL CHECK (price_micro_usd >= 0),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'retired')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL DEFAULT '',
    tier TEXT NOT NULL DEFAULT 'free' CHECK (tier IN ('free', 'pro')),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
    balance INTEGER NOT NULL DEFAULT 0 CHECK (balance >= 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    owed INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0),
    stop_running INTEGER NOT NULL DEFAULT 0 CHECK (stop_running IN (0, 1)),
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    CHECK (held <= balance)
) STRICT;

CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    expires_at INTEGER,
    models TEXT,
    ips TEXT,
    spend_limit INTEGER CHECK (spend_limit >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE INDEX keys_account ON keys (account_id, id);

CREATE TABLE key_secrets (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    key_id INTEGER NOT NULL REFERENCES keys (id),
    prefix TEXT NOT NULL,
    last4 TEXT NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX key_secrets_key ON key_secrets (key_id);

CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL CHECK (kind IN ('signup', 'sale', 'sale_refund', 'grant', 'deduct',
        'charge', 'charge_refund', 'owed_payment')),
    amount INTEGER NOT NULL,
    owed_change INTEGER NOT NULL DEFAULT 0,
    balance_after INTEGER NOT NULL CHECK (balance_after >= 0),
    owed_after INTEGER NOT NULL CHECK (owed_after >= 0),
    key_id INTEGER REFERENCES keys (id),
    request_id TEXT,
    pack_id INTEGER REFERENCES packs (id),
    of_entry INTEGER REFERENCES entries (id),
    cash_micro_usd INTEGER NOT NULL DEFAULT 0,
    reference TEXT,
    reason TEXT NOT NULL DEFAULT '',
    actor TEXT NOT NULL DEFAULT '',
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_account ON entries (account_id, id);
CREATE UNIQUE INDEX entries_request ON entries (request_id, kind) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX entries_reference ON entries (reference) WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX entries_refund_once ON entries (of_entry) WHERE of_entry IS NOT NULL;
CREATE INDEX entries_account_acts ON entries (account_id, kind) WHERE kind <> 'charge';
CREATE INDEX entries_acts ON entries (kind, created_ms, amount, cash_micro_usd)
    WHERE kind <> 'charge';
CREATE INDEX entries_kind ON entries (kind) WHERE kind <> 'charge';

CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    key_id INTEGER NOT NULL REFERENCES keys (id),
    instance_id TEXT NOT NULL,
    model TEXT NOT NULL,
    mode TEXT NOT NULL,
    price_id INTEGER NOT NULL REFERENCES prices (id),
    state TEXT NOT NULL CHECK (state IN ('held', 'settled', 'voided', 'swept')),
    delivery INTEGER NOT NULL DEFAULT 0 CHECK (delivery IN (0, 1, 2)),
    hold INTEGER NOT NULL CHECK (hold >= 0),
    charge INTEGER NOT NULL DEFAULT 0 CHECK (charge >= 0),
    streamed INTEGER NOT NULL DEFAULT 0,
    estimated INTEGER NOT NULL DEFAULT 0,
    bounded INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    usage TEXT,
    usage_raw TEXT,
    image_size TEXT,
    image_quality TEXT,
    provider TEXT,
    upstream_id TEXT,
    attempts TEXT,
    cost INTEGER NOT NULL DEFAULT 0,
    loss INTEGER NOT NULL DEFAULT 0,
    http_status INTEGER,
    error TEXT,
    finish_reason TEXT,
    retry_of INTEGER,
    created_ms INTEGER NOT NULL,
    first_byte_ms INTEGER,
    finished_ms INTEGER
) STRICT;
CREATE INDEX requests_account ON requests (account_id, id);
CREATE INDEX requests_open ON requests (instance_id) WHERE delivery = 0;
CREATE INDEX requests_undelivered ON requests (id) WHERE delivery = 2;
CREATE INDEX requests_uncharged ON requests (state) WHERE state IN ('voided', 'swept');

CREATE TABLE daily (
    day INTEGER NOT NULL,
    account_id INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0,
    voided INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    cost INTEGER NOT NULL DEFAULT 0,
    loss INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, model, account_id, key_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX daily_account ON daily (account_id, day);

CREATE TABLE daily_models (
    day INTEGER NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0,
    voided INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    cost INTEGER NOT NULL DEFAULT 0,
    loss INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE minutes (
    minute INTEGER PRIMARY KEY,
    requests INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    cost INTEGER NOT NULL DEFAULT 0,
    latency_ms_sum INTEGER NOT NULL DEFAULT 0,
    latency_ms_max INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE rejections (
    minute INTEGER NOT NULL,
    kind TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (minute, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT '{}',
    status_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE retention (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    pruned_before_ms INTEGER NOT NULL,
    summed_before_day INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    act TEXT NOT NULL,
    target TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT;
"""

# The ledger and the audit only ever grow; what they say cannot be said otherwise later.
_APPEND_ONLY = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""

# Everything a server caches carries a version that the hold checks; triggers raise it, so that no
# writer (CLI, TUI, a hand with sqlite3) can forget to.
_CATALOG_TABLES = ("tiers", "providers", "models", "prices", "routes")
_BUMP_CATALOG = """
CREATE TRIGGER {table}_{act}_bumps AFTER {act} ON {table}
BEGIN UPDATE catalog_state SET version = version + 1; END;
"""
_BUMP_CALLERS = """
CREATE TRIGGER accounts_bump AFTER UPDATE OF tier, status, stop_running ON accounts
BEGIN UPDATE accounts SET version = version + 1 WHERE id = new.id; END;
CREATE TRIGGER keys_bump AFTER UPDATE OF status, expires_at, models, ips, spend_limit ON keys
BEGIN UPDATE keys SET version = version + 1 WHERE id = new.id; END;
CREATE TRIGGER key_secrets_insert_bumps AFTER INSERT ON key_secrets
BEGIN UPDATE keys SET version = version + 1 WHERE id = new.key_id; END;
CREATE TRIGGER key_secrets_update_bumps AFTER UPDATE ON key_secrets
BEGIN UPDATE keys SET version = version + 1 WHERE id = new.key_id; END;
CREATE TRIGGER key_secrets_delete_bumps AFTER DELETE ON key_secrets
BEGIN UPDATE keys SET version = version + 1 WHERE id = old.key_id; END;
"""
# A resolved request never changes what it charged (delivery marks and refunds aside).
_REQUESTS_FINAL = """
CREATE TRIGGER requests_final BEFORE UPDATE OF charge, hold, price_id, account_id, key_id, usage
ON requests WHEN old.state IN ('settled', 'voided')
BEGIN SELECT RAISE(ABORT, 'a resolved request is final'); END;
"""


def _statements(script: str) -> list[str]:
    """Complete statements of a script (a trigger's body has semicolons of its own)."""
    import sqlite3

    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return [s for s in found if s]


def apply(connection: Any) -> None:
    scripts = [_TABLES]
    scripts += [_APPEND_ONLY.format(table=t) for t in ("entries", "audit")]
    scripts += [
        _BUMP_CATALOG.format(table=t, act=act)
        for t in _CATALOG_TABLES
        for act in ("INSERT", "UPDATE", "DELETE")
    ]
    scripts += [_BUMP_CALLERS, _REQUESTS_FINAL]
    for script in scripts:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute("INSERT INTO catalog_state (id, version) VALUES (1, 1)")
    connection.execute("INSERT INTO retention (id, pruned_before_ms) VALUES (1, 0)")
