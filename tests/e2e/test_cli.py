"""The command `sellapi`, as a person and as a script meet it."""

import csv
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli
from sellapi.admin import Admin
from sellapi.admin.credits import Credits
from sellapi.admin.packs import Tiers
from sellapi.domain.usage import Usage
from sellapi.storage.database import Database
from tests.support.shop import Requests

ROOT = Path(__file__).parents[2]
ANN = "ann@shop.test"
MINE = [n for n in cli.COMMANDS if n not in ("serve", "tui")]


class Shell:
    """Commands in this process, on one database."""

    def __init__(self, path):
        self.env = {"SELLAPI_DATABASE": str(path), "OPENAI_API_KEY": "sk-proj-x"}

    def run(self, *words, code=0):
        result = CliRunner().invoke(cli.cli, list(words), env=self.env, prog_name="sellapi")
        assert result.exit_code == code, (words, result.output, result.stderr, result.exception)
        return result

    def json(self, *words, code=0):
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def error(self, *words, code=1):
        result = self.run(*words, "--json", code=code)
        assert result.stdout == ""
        return json.loads(result.stderr)["error"]["message"]


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path / "shop.db")
    shell.run("init")
    return shell


def process(*words, env=None, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def _verbs():
    context = click.Context(cli.cli)
    for noun in MINE:
        command = cli.cli.get_command(context, noun)
        if isinstance(command, click.Group):
            for verb, found in command.commands.items():
                yield (noun, verb), found
        else:
            yield (noun,), command


def test_every_command_has_help_with_an_example_and_takes_json():
    for words, command in _verbs():
        text = CliRunner().invoke(cli.cli, [*words, "--help"]).output
        assert "Example" in text, words
        assert f"sellapi {' '.join(words)}" in text, words
        assert "--json" in text or words == ("completion",), words
        assert command.help, words


def test_help_loads_nothing_heavy():
    script = (
        "import sys, cli\n"
        "try: cli.cli(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'sanic', 'textual', 'peewee', 'httpx', 'pydantic', 'rich', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.strip() == "[]"
    assert "Commands" in done.stdout


def test_output_goes_to_stdout_trouble_to_stderr_and_the_exit_code_tells(tmp_path):
    env = {"SELLAPI_DATABASE": str(tmp_path / "shop.db")}
    missing = process("users", "list", env=env)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "sellapi init" in missing.stderr
    assert process("init", env=env).returncode == 0
    usage = process("users", "show", env=env)
    assert (usage.returncode, usage.stdout) == (2, "")
    done = process("users", "add", ANN, "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["balance"] == "10000"
    refused = process("users", "delete", ANN, env=env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--yes" in refused.stderr
    assert "\x1b" not in process("users", "list", env=env).stdout


def test_what_list_prints_as_json_is_an_array_of_what_show_prints(shell):
    shell.run("users", "add", ANN)
    shell.run("keys", "create", ANN)
    for noun, name in (
        ("users", ANN),
        ("keys", "1"),
        ("packs", "starter"),
        ("providers", "openai"),
        ("models", "openai/gpt-5.4"),
    ):
        assert shell.json(noun, "show", name) in shell.json(noun, "list"), noun


def test_the_whole_life_of_a_customer(shell):
    assert shell.json("users", "add", ANN)["tier"] == "free"
    key = shell.json("keys", "create", ANN, "--expires", "30d", "--limit", "5000.5")
    assert key["key"].startswith(key["prefix"])
    assert (key["limit"], len(key["key"])) == ("5000.5", 54)
    sale = shell.json("packs", "sell", ANN, "starter", "--reference", "r1")
    assert {k: sale[k] for k in ("user", "pack", "credits", "balance", "tier", "repeated")} == {
        "user": ANN,
        "pack": "starter",
        "credits": "500000",
        "balance": "510000",
        "tier": "pro",
        "repeated": False,
    }
    assert shell.json("packs", "sell", ANN, "starter", "--reference", "r1") == {
        **sale,
        "repeated": True,
    }
    assert "r1" in shell.error("packs", "sell", ANN, "plus", "--reference", "r1")
    assert shell.json("credits", "grant", ANN, "0.000001", "--reason", "x")["amount"] == "0.000001"
    assert "available" in shell.error("credits", "deduct", ANN, "9999999", "--reason", "x")
    rotated = shell.json("keys", "rotate", str(key["id"]))
    assert rotated["key"] != key["key"]
    assert shell.json("keys", "revoke", str(key["id"]), "--yes")["status"] == "revoked"
    verified = shell.json("ledger", "verify")
    assert verified["ok"] is True
    assert {"accounts", "entries", "open_holds", "head"} <= verified.keys()
    assert shell.json("packs", "refund", str(sale["entry"]))["tier"] == "free"
    assert [a["act"] for a in shell.json("audit", "--limit", "1")] == ["packs.refund"]


@pytest.mark.parametrize(
    "words",
    [
        ("users", "suspend", ANN),
        ("users", "delete", ANN),
        ("keys", "revoke", "1"),
        ("providers", "remove", "openai"),
        ("packs", "retire", "starter"),
        ("db", "restore", "x.db"),
    ],
)
def test_a_destructive_verb_without_yes_and_without_a_terminal_changes_nothing(shell, words):
    shell.run("users", "add", ANN)
    shell.run("keys", "create", ANN)
    before = len(shell.json("audit"))
    assert "--yes" in shell.error(*words)
    assert len(shell.json("audit")) == before


@pytest.mark.parametrize("amount", ["1e5", "NaN", "1,5", "٣", "0", "10000000001", "1.0000001"])
def test_an_amount_that_is_no_amount_is_a_usage_error(shell, amount):
    shell.run("users", "add", ANN)
    shell.error("credits", "grant", ANN, amount, "--reason", "x", code=2)


def test_csv_has_no_cell_a_spreadsheet_would_run(shell):
    shell.run("users", "add", ANN)
    shell.run("credits", "grant", ANN, "1", "--reason", "=HYPERLINK(1)", "--reference", "@x")
    shell.run("credits", "deduct", ANN, "0.5", "--reason", "+1\x1b[31m\n")
    text = shell.run("credits", "statement", ANN, "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["reason"][:2] for r in rows[1:]] == ["'=", "'+"]
    assert rows[1]["reference"] == "'@x"
    assert [r["amount"] for r in rows] == ["10000", "1", "-0.5"]
    assert "\x1b" not in text
    total = shell.json("credits", "statement", ANN)
    assert (total["opening_balance"], total["closing_balance"]) == ("0", "10000.5")


def test_foreign_text_reaches_a_terminal_without_its_control_characters(shell):
    shell.run("users", "add", ANN, "--name", "A\x1b[2Jnn\u202e [red]x[/red]")
    text = shell.run("users", "list").stdout
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]" in text


def test_models_are_added_priced_scheduled_and_imported(shell, tmp_path):
    added = shell.json(
        *("models", "add", "acme/large", "--mode", "chat", "--provider", "openai"),
        *("--upstream", "large-2", "--input", "3", "--output", "15", "--tier", "free"),
    )
    assert (added["available"], added["prices"]) == (True, {"input": "3", "output": "15"})
    assert not shell.json("models", "disable", "acme/large")["enabled"]
    later = shell.json("models", "set", "acme/large", "--input", "4", "--from", "2099-01-01")
    assert (later["prices"]["input"], len(later["scheduled"])) == ("3", 1)
    file = tmp_path / "list.json"
    file.write_text('{"data":[{"id":"acme/large","pricing":{"prompt":"0.000005"}}]}')
    assert shell.json("models", "import", str(file))["applied"] is False
    assert shell.json("models", "show", "acme/large")["prices"]["input"] == "3"
    assert shell.json("models", "import", str(file), "--yes")["applied"] is True
    assert shell.json("models", "show", "acme/large")["prices"]["input"] == "5"


def test_a_provider_needs_a_key_by_name_and_says_when_it_is_missing(shell):
    assert "api-key-env" in shell.error("providers", "add", "p", "--kind", "openai", code=2)
    added = shell.json("providers", "add", "p", "--kind", "gemini", "--api-key-env", "NOT_SET_HERE")
    assert (added["available"], added["has_key"]) == (False, False)
    tested = shell.json("providers", "test", "p", code=1)
    assert (tested["ok"], "NOT_SET_HERE" in tested["message"]) == (False, True)


def test_backup_and_restore_print_the_same_head_as_verify(shell, tmp_path):
    head = shell.json("ledger", "verify")["head"]
    copy = str(tmp_path / "copy.db")
    assert shell.json("db", "backup", copy)["head"] == head
    shell.run("users", "add", ANN)
    assert shell.json("db", "restore", copy, "--yes")["head"] == head
    assert shell.json("users", "list") == []
    assert shell.json("db", "check")["ok"] is True


def test_every_look_works_on_an_empty_shop_in_both_forms(shell):
    for words in (
        ("status",),
        ("doctor",),
        ("users", "list"),
        ("keys", "list"),
        ("usage",),
        ("usage", "--by", "day", "--csv"),
        ("requests", "list"),
        ("requests", "tail"),
        ("ledger", "list"),
        ("audit",),
        ("tiers", "list"),
    ):
        shell.run(*words)
        if "--csv" not in words:
            shell.json(*words)


def test_another_users_database_is_refused_with_how_to(shell, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "sudo -u" in shell.error("users", "list")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell, name):
    assert "_SELLAPI_COMPLETE" in shell.run("completion", name).stdout


# Methods only screens need, and verbs that are spelt otherwise.
SCREENS_ONLY = {"users": {"detail", "count"}, "providers": {"routed_models"}}
SPELT = {("models", "price_history"): "prices"} | {
    ("models", f"route_{verb}"): "route" for verb in ("add", "remove")
}


def test_every_act_of_the_admin_service_has_its_command_and_the_other_way_round():
    verbs = {words for words, _ in _verbs()}
    for noun in ("users", "keys", "packs", "tiers", "credits", "providers", "models"):
        service = {"tiers": Tiers, "credits": Credits}.get(noun) or getattr(
            importlib.import_module(f"sellapi.admin.{noun}"), noun.capitalize()
        )
        acts = {n for n, f in vars(service).items() if inspect.isfunction(f) and n[0] != "_"}
        acts -= SCREENS_ONLY.get(noun, set())
        spelt = {SPELT.get((noun, act), act) for act in acts}
        assert {verb for n, verb in (w for w in verbs if len(w) == 2) if n == noun} == spelt | (
            {"import"} if noun == "models" else set()
        )


def test_a_tail_follows_new_requests_one_document_a_line(shell, tmp_path):
    shell.run("users", "add", ANN)
    database = Database.open(tmp_path / "shop.db")
    admin = Admin(database, actor="t", via="cli", env={})
    requests = Requests(admin, ANN)
    first = requests.charge(hold=1_000_000_000)
    tail = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "requests", "tail", "--follow", "--json"],
        env={**os.environ, **shell.env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert json.loads(tail.stdout.readline())["request_id"] == first
        held, _ = requests.hold(10_000_000)
        second = requests.charge(hold=1_000_000_000)
        assert json.loads(tail.stdout.readline())["request_id"] == second
        requests.settle(held, Usage(input=1))
        late = json.loads(tail.stdout.readline())
        assert (late["request_id"], late["charge"]) == (held, "0.25")
    finally:
        tail.terminate()
        tail.wait(10)
        tail.stdout.close()
        database.close()


def test_a_damaged_database_is_named_by_check_and_doctor_and_mended_by_restore(shell, tmp_path):
    copy, path = tmp_path / "copy.db", tmp_path / "shop.db"
    shell.run("db", "backup", str(copy))
    path.write_bytes(b"garbage " * 4096)
    for side in ("-wal", "-shm"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    assert "db restore" in shell.error("users", "list")
    checked = shell.json("db", "check", code=1)
    assert (checked["ok"], len(checked["problems"])) == (False, 1)
    doctor = shell.json("doctor")
    assert [(c["name"], c["ok"]) for c in doctor] == [("database", False)]
    assert "db restore" in doctor[0]["mend"]
    shell.run("db", "restore", str(copy), "--yes")
    assert shell.json("users", "list") == []
