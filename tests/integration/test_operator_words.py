"""Words an operator or a script types by mistake: one clear error, and nothing is changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sellapi.storage.database import Database
from tests.support.shell import Shell
from tests.support.shop import quick
from tui.words import day_time

ROOT = Path(__file__).parents[2]
ANN = "ann@shop.test"


@pytest.fixture
def database(tmp_path):
    Shell(tmp_path / "shop.db").run("init")
    database = quick(Database.open(tmp_path / "shop.db"))
    yield database
    database.close()


@pytest.fixture
def shell(database):
    shell = Shell(database.path)
    shell.run("users", "add", ANN)
    shell.run("keys", "create", ANN, "--limit", "100", "--models", "openai/gpt-5.4")
    return shell


@pytest.fixture
def unchanged(shell, database):
    """Run what is refused, and hold the database to what it was."""

    def dump():
        with database.read() as tx:
            return list(tx.connection.iterdump())

    before = dump()
    yield
    assert dump() == before


# -- times -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", ANN, "--expires", "999999w"),
        ("keys", "create", ANN, "--expires", "9999-12-31"),
        ("keys", "set", "1", "--expires", "999999w"),
        ("keys", "rotate", "1", "--grace", "999999w"),
        ("requests", "prune", "--older-than", "999999d"),
        ("usage", "--since", "999999d"),
        ("usage", "--since", "0001-01-01"),
        ("ledger", "list", "--since", "999999w"),
        ("audit", "--since", "999999w"),
        ("credits", "statement", ANN, "--since", "999999d"),
        ("credits", "statement", ANN, "--until", "9999-12-31"),
        ("models", "set", "openai/gpt-5.4", "--input", "3", "--from", "9999-12-31"),
    ],
)
def test_a_time_that_cannot_be_written_is_refused_and_changes_nothing(shell, words):
    assert "years 1970 to 9998" in shell.error(*words, code=2)


@pytest.mark.parametrize("words", [("--until", "9998-12-31"), ("--since", "1970-01-01")])
def test_the_first_and_the_last_day_that_may_be_typed_are_shown(shell, words):
    shell.json("credits", "statement", ANN, *words)
    shell.json("keys", "create", ANN, "--expires", "9998-12-31")


def test_times_that_cannot_be_written_are_looked_at_all_the_same(shell, database):
    with database.transaction() as tx:
        tx.execute("UPDATE keys SET expires_at = ?", (10**12,))
        audited = "INSERT INTO audit (at_ms, actor, via, act, target, after) VALUES (?, 'x', 'cli', 'x', 'x', ?)"
        tx.execute(audited, (10**16, '{"expires_at": 606566000000}'))
        tx.execute(audited, (1, '{"before_ms": -84600000000000}'))
    assert shell.json("keys", "list")[0]["expires_at"] == "9999-12-31T23:59:59Z"
    told = {row["id"]: row for row in shell.json("audit")}
    early, late = (told[number] for number in sorted(told, reverse=True)[:2])
    assert (late["at"], late["after"]) == (
        "9999-12-31T23:59:59Z",
        {"expires_at": "9999-12-31T23:59:59Z"},
    )
    assert early["after"] == {"before": "1970-01-01T00:00:00Z"}
    assert (day_time(10**16), day_time(-(10**16))) == (
        "9999-12-31 23:59:59",
        "1970-01-01 00:00:00",
    )


# -- empty variables of scripts ----------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "words",
    [
        ("keys", "set", "1", "--limit", ""),
        ("keys", "set", "1", "--models", ","),
        ("keys", "set", "1", "--models", " "),
        ("keys", "set", "1", "--ips", ","),
        ("keys", "set", "1", "--expires", ""),
        ("keys", "create", ANN, "--limit", ""),
        ("keys", "create", ANN, "--models", ","),
        ("keys", "create", ANN, "--ips", ","),
        ("tiers", "set", "free", "--signup-credits", ""),
        ("packs", "sell", ANN, "starter", "--paid-usd", ""),
        ("providers", "set", "openai", "--proxy", ""),
        ("providers", "set", "openai", "--timeout", "5", "--api-key-file", ""),
        ("providers", "add", "p", "--kind", "openai", "--no-key", "--base-url", ""),
        ("models", "set", "openai/gpt-5.4", "--modalities", ","),
        ("models", "set", "openai/gpt-5.4", "--allow-fields", ""),
        ("models", "set", "openai/gpt-5.4", "--provider", "openai", "--upstream", ""),
    ],
)
def test_an_empty_word_lifts_no_limit_and_no_list(shell, words):
    assert shell.error(*words, code=2)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "words",
    [
        ("providers", "set", "openai", "--timeout", "5", "--api-key-env", ""),
        ("models", "set", "openai/gpt-5.4", "--upstream", "x", "--provider", ""),
    ],
)
def test_an_empty_name_is_a_name_that_is_not_there(shell, words):
    assert shell.error(*words)


def test_none_lifts_a_limit_and_a_list(shell):
    key = shell.json("keys", "set", "1", "--limit", "none", "--models", "none", "--ips", "none")
    assert (key["limit"], key["models"], key["ips"]) == (None, None, None)
    assert shell.json("models", "set", "openai/gpt-5.4", "--allow-fields", "none")


# -- numbers, bytes and streams that are none --------------------------------------------------

HUGE = "99999999999999999999999"
MODEL = "openai/gpt-5.4"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("users", "show", HUGE), 1),
        (("users", "show", "9" * 5000), 1),
        (("keys", "show", HUGE), 2),
        (("keys", "revoke", HUGE, "--yes"), 2),
        (("packs", "refund", HUGE), 2),
        (("audit", "--target", f"user:{HUGE}"), 0),
        (("models", "set", MODEL, "--long-context", "-5"), 2),
        (("models", "set", MODEL, "--long-context", HUGE), 2),
        (("models", "set", MODEL, "--context", HUGE), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--timeout", "nan"), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--timeout", "inf"), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--timeout", "1e300"), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--priority", HUGE), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--weight", HUGE), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--max-concurrency", "0"), 2),
        (("models", "route", MODEL, "add", "openai:zz", "--cost", "long_context=x"), 2),
        (("providers", "set", "openai", "--timeout", "nan"), 2),
        (("tiers", "set", "free", "--rpm", HUGE), 2),
        (("users", "add", "x@b.c", "--name", "\udcff"), 2),
        (("users", "show", "\udcff"), 2),
        (("credits", "grant", ANN, "1", "--reason", "\udcff"), 2),
        (("keys", "create", ANN, "--name", "\udcff"), 2),
        (("packs", "sell", ANN, "\udcff"), 2),
        (("\udcff",), 2),
    ],
)
def test_no_number_and_no_byte_ends_in_a_fault(shell, words, code):
    if code:
        assert "fault" not in shell.error(*words, code=code)
    else:
        assert shell.json(*words) == []


def test_what_no_command_foresaw_is_one_error_too(shell, monkeypatch):
    def broken(self):
        raise LookupError("some\ntrouble")

    monkeypatch.setattr("sellapi.admin.packs.Packs.list", broken)
    assert shell.error("packs", "list") == "a fault of sellapi's own, LookupError: some trouble"
    told = shell.run("packs", "list", code=1).stderr
    assert told.splitlines()[1:] == ["SELLAPI_DEBUG=1 shows where it lies."]
    monkeypatch.setitem(shell.env, "SELLAPI_DEBUG", "1")
    told = shell.run("packs", "list", code=1).stderr
    assert "in broken" in told
    assert told.splitlines()[-1].startswith("Error: a fault")


def closed(shell, descriptor, *words):
    """A command whose shell closed a stream, as ``<&-`` and ``>&-`` do."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {descriptor}', "sh", sys.executable, str(ROOT / "cli.py"), *words],
        env={**os.environ, **shell.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("descriptor", "words", "said"),
    [
        ("<&-", ("users", "delete", ANN), "--yes"),
        ("<&-", ("tui",), "terminal"),
        (">&-", ("users", "list"), "stdout is closed"),
        (">&-", ("keys", "create", ANN), "stdout is closed"),
    ],
)
def test_a_closed_stream_is_told_and_changes_nothing(shell, descriptor, words, said):
    done = closed(shell, descriptor, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_needs_stdin_or_stderr_to_look(shell):
    assert ANN in closed(shell, "<&-", "users", "list").stdout
    assert closed(shell, "2>&-", "ledger", "verify", "--json").returncode == 0
    assert closed(shell, "2>&-", "ledger", "verify").returncode == 0


@pytest.mark.parametrize("columns", ["0", "-5", "many", ""])
def test_columns_that_are_none_leave_tables_as_they_are(shell, columns):
    wide = shell.run("users", "list").stdout
    shell.env["COLUMNS"] = columns
    assert ANN in wide
    assert shell.run("users", "list").stdout == wide


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_utf_8_loses_no_answer_only_a_letter(shell, encoding):
    environment = {**os.environ, **shell.env, "PYTHONIOENCODING": encoding}

    def said(*words):
        line = [sys.executable, str(ROOT / "cli.py"), *words]
        done = subprocess.run(line, env=environment, capture_output=True, timeout=60, check=True)
        return done.stdout

    name = "Žofie 張 \N{GRINNING FACE}"
    assert b"sk-sellapi-" in said("keys", "create", ANN, "--name", name)
    assert b"mend" in said("doctor")
    assert b"read from a cache" in said("models", "add", "--help")
    assert json.loads(said("keys", "list", "--json"))[0]["name"] == name


@pytest.mark.parametrize(
    "words",
    [
        ("users", "list", "--search", "nobody"),
        ("users", "list", "--status", "deleted"),
        ("requests", "list", "--model", "no/such"),
        ("ledger", "list", "--since", "2090-01-01"),
        ("audit", "--act", "key.revoke"),
    ],
)
def test_a_filter_that_finds_nothing_does_not_say_that_there_is_nothing(shell, words):
    assert shell.run(*words).stdout == "nothing matches\n"
    assert shell.json(*words) == []


def test_a_list_without_a_filter_says_what_is_not_there_yet(shell):
    assert shell.run("requests", "list", "--limit", "5").stdout == "no requests yet\n"


@pytest.mark.parametrize("words", [("init",), ("status",), ("doctor",), ("db", "check")])
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_is_no_database_and_is_called_by_its_name(tmp_path, words, empty):
    shell = Shell(tmp_path)
    where = ("--database", "") if empty else ()
    assert "is a directory: name a file" in shell.error(*words, *where)
