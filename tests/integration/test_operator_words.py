"""Words an operator or a script types by mistake: one clear error, and nothing is changed."""

import pytest

from sellapi.storage.database import Database
from tests.support.shell import Shell
from tests.support.shop import quick
from tui.words import day_time

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
