"""The command `sellapi`, as a person and as a script meet it."""

import csv
import fcntl
import importlib
import inspect
import io
import json
import os
import pty
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

import cli
from sellapi.admin import Admin
from sellapi.admin.credits import Credits
from sellapi.admin.packs import Tiers
from sellapi.domain.usage import Usage
from sellapi.storage.database import Database
from tests.support.shell import Shell
from tests.support.shop import Requests

ROOT = Path(__file__).parents[2]
ANN = "ann@shop.test"
MINE = [n for n in cli.COMMANDS if n != "tui"]


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path / "shop.db")
    shell.run("init")
    return shell


@pytest.fixture
def requests(shell, tmp_path):
    shell.run("users", "add", ANN)
    database = Database.open(tmp_path / "shop.db")
    yield Requests(Admin(database, actor="t", via="cli", env={}), ANN)
    database.close()


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
        assert "--json" in text, words
        assert command.help, words


def test_every_noun_has_help_with_examples_that_make_sense():
    context = click.Context(cli.cli)
    for noun in sorted({words[0] for words, _ in _verbs() if len(words) == 2}):
        text = CliRunner().invoke(cli.cli, [noun, "--help"]).output
        shown = [line.split() for line in text.partition("Example:")[2].splitlines() if line]
        assert shown, noun
        for sellapi, named, verb, *rest in shown:
            assert (sellapi, named) == ("sellapi", noun)
            cli.cli.get_command(context, noun).commands[verb].make_context(verb, rest).close()


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


NOUNS = {
    "users": "email",
    "keys": "id",
    "packs": "slug",
    "tiers": "name",
    "providers": "name",
    "models": "slug",
    "requests": "request_id",
}


def test_what_list_prints_as_json_is_an_array_of_what_show_prints(shell, requests):
    requests.charge()
    requests.hold(10_000_000)
    both = {noun for noun in MINE if {(noun, "list"), (noun, "show")} <= {w for w, _ in _verbs()}}
    assert both == NOUNS.keys()
    for noun, name in NOUNS.items():
        listed = shell.json(noun, "list")
        assert listed, noun
        assert listed == [shell.json(noun, "show", str(row[name])) for row in listed], noun
    assert shell.json("requests", "tail") == shell.json("requests", "list")[::-1]


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


@pytest.mark.parametrize("words", [("credits", "statement", ANN), ("ledger", "list"), ("usage",)])
def test_two_forms_at_once_are_a_usage_error(shell, words):
    shell.run("users", "add", ANN)
    assert "say which" in shell.error(*words, "--csv", code=2)


def test_foreign_text_reaches_a_terminal_without_its_control_characters(shell):
    name = "A\x1b[2Jnn\u202e [red]x[/red]"
    assert "no control" in shell.error("users", "add", ANN, "--name", name, code=2)
    shell.run("users", "add", ANN)
    connection = sqlite3.connect(shell.env["SELLAPI_DATABASE"])
    with connection:  # as a database of before may hold it
        connection.execute("UPDATE accounts SET name = ?", (name,))
    connection.close()
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
    script = shell.run("completion", name).stdout
    assert "_SELLAPI_COMPLETE" in script
    assert shell.json("completion", name) == {"shell": name, "script": script.removesuffix("\n")}


# Methods only screens need, and verbs that are spelt otherwise.
SCREENS_ONLY = {
    "users": {"detail", "count"},
    "providers": {"routed_models"},
    "credits": {"charge"},
    "packs": {"sale"},
}
SPELT = {("models", "price_history"): "prices", ("models", "apply"): "import"} | {
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
        assert {verb for n, verb in (w for w in verbs if len(w) == 2) if n == noun} == spelt


def test_a_tail_follows_new_requests_one_document_a_line(shell, requests):
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
        assert late == shell.json("requests", "show", held)
    finally:
        tail.terminate()
        tail.wait(10)
        tail.stdout.close()


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
    assert (doctor[0]["name"], doctor[0]["ok"]) == ("database", False)
    assert "db restore" in doctor[0]["mend"]
    assert all(c["ok"] for c in doctor[1:])
    shell.run("db", "restore", str(copy), "--yes")
    assert shell.json("users", "list") == []


@pytest.fixture
def unopened(shell, tmp_path):
    """A shop as on a disk on which SQLite can make no file."""
    (tmp_path / "shop.db-shm").symlink_to(tmp_path / "nowhere" / "shm")
    return shell


def _found(shell, name):
    return next(c for c in shell.json("doctor") if c["name"] == name)


def test_doctor_says_that_the_disk_is_full_when_the_database_cannot_be_opened(
    unopened, monkeypatch
):
    assert not _found(unopened, "database")["ok"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    disk = _found(unopened, "disk")
    assert not disk["ok"]
    assert "is full" in disk["detail"]
    unopened.run("doctor", "--strict", code=1)


@pytest.mark.parametrize("flag", [os.ST_RDONLY, 0], ids=["mount", "mode"])
def test_doctor_says_what_is_read_only_when_the_database_cannot_be_opened(
    unopened, monkeypatch, flag
):
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda p: os.statvfs_result((*real(p)[:8], flag, 255)))
    monkeypatch.setattr(os, "access", lambda *_: False)
    writable = _found(unopened, "writable")
    assert not writable["ok"]
    assert "read-only" in writable["detail"]
    assert ("mount" in writable["mend"]) == bool(flag)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("frob",), "sellapi"),
        (("users", "frob"), "sellapi users"),
        (("users", "add"), "sellapi users add"),
        (("users", "add", "no-address"), "sellapi users add"),
        (("users", "set", ANN), "sellapi users set"),
        (("usage", "--since", "yesterday"), "sellapi usage"),
        (("credits", "grant", ANN, "-5", "--reason", "x"), "sellapi credits grant"),
    ],
)
def test_words_that_make_no_sense_are_an_error_with_a_hint_to_help(shell, words, path):
    told = shell.run(*words, code=2).stderr.splitlines()
    assert told[0].startswith("Error: ")
    assert told[1:] == [f"Try `{path} --help`."]
    error = json.loads(shell.run(*words, "--json", code=2).stderr)["error"]
    assert (error["type"], error["hint"]) == ("usage", told[1])


def test_no_name_and_no_address_of_a_deleted_user_is_left_in_the_audit(shell, tmp_path):
    shell.run("users", "add", ANN, "--name", "Ann Miller")
    shell.run("users", "set", ANN, "--name", "Ann Smith", "--email", "smith@shop.test")
    shell.run("keys", "create", "smith@shop.test", "--name", "Smith laptop")
    shell.run("keys", "set", "1", "--name", "Smith phone")
    shell.run("packs", "sell", "smith@shop.test", "starter")
    shell.run("users", "delete", "smith@shop.test", "--yes")
    told = shell.run("audit", "--json").stdout + shell.run("audit").stdout
    database = Database.open(tmp_path / "shop.db")
    with database.read() as tx:
        rows = json.dumps([tx.rows(f"SELECT * FROM {t}") for t in ("audit", "accounts", "keys")])
    database.close()
    found = (told + rows).lower()
    assert "keys.create" in found
    assert [word for word in ("smith", "miller", ANN) if word in found] == []


def test_tables_fit_eighty_characters(shell, requests, monkeypatch):
    requests.charge()
    monkeypatch.setitem(shell.env, "COLUMNS", "80")
    for words in (
        ("models", "list"),
        ("doctor",),
        ("providers", "list"),
        ("users", "list"),
        ("keys", "list"),
        ("requests", "list"),
        ("ledger", "list"),
        ("audit",),
        ("usage",),
        ("status",),
        ("credits", "statement", ANN),
    ):
        lines = shell.run(*words).stdout.splitlines()
        assert max(map(len, lines)) <= 80, words
    text = shell.run("models", "list").stdout
    assert "in 3 out 15 cached 0.3" in text
    assert "anthropic/claude-sonnet-4.6 " in text
    assert "→ " in shell.run("doctor").stdout
    request = shell.json("requests", "list")[0]["request_id"]
    assert request in shell.run("requests", "list").stdout


def test_a_receipt_says_what_runs_what_was_given_back_and_what_cost_nothing(shell, requests):
    def shown(request_id):
        return shell.run("requests", "show", request_id).stdout

    held, _ = requests.hold(10_000_000)
    assert "still runs" in shown(held)
    requests.settle(held, Usage())
    assert "nothing was charged" in shown(held)
    charged = requests.charge(hold=1_000_000_000)
    assert "rounded up once to a millionth: 400 credits" in shown(charged)
    assert "given back" not in shown(charged)
    shell.run("credits", "refund", charged)
    assert "given back later: 400 credits" in shown(charged)


def test_usage_draws_bars_by_what_was_charged(shell, requests):
    requests.charge(tokens=1000)
    Requests(
        Admin(requests.database, actor="t", via="cli", env={}), ANN, "openai/gpt-5-nano"
    ).charge(tokens=1, hold=1_000_000_000)
    lines = shell.run("usage", "--since", "2026-01-01").stdout.splitlines()
    bars = {line.split()[0]: line.count("█") for line in lines if line.startswith("openai/")}
    assert bars["openai/gpt-5.4"] == 20
    assert bars["openai/gpt-5-nano"] < 3


def on_a_terminal(*words, env, answer=b""):
    """What a command shows on a terminal of 80 columns, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {n: v for n, v in os.environ.items() if n not in ("COLUMNS", "NO_COLOR")}
        os.execve(
            sys.executable,
            [sys.executable, str(ROOT / "cli.py"), *words],
            {**environment, **env, "TERM": "xterm-256color"},
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that nobody has the other end any more
            break
        if not part:
            break
        shown += part
        if answer and b"[y/N]" in shown:
            os.write(terminal, answer)
            answer = b""
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_bars_and_colours_are_shown_on_a_terminal_only(shell):
    shown, code = on_a_terminal("ledger", "verify", env=shell.env)
    assert (code, "verifying" in shown, "\x1b[" in shown) == (0, True, True)
    shown, _ = on_a_terminal("doctor", env=shell.env)
    assert "\x1b[32mok" in shown
    piped = process("ledger", "verify", env=shell.env)
    assert "verifying" not in piped.stdout + piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr


def test_a_terminal_is_asked_before_something_is_destroyed(shell):
    shell.run("users", "add", ANN)
    shown, code = on_a_terminal("users", "suspend", ANN, env=shell.env, answer=b"n\n")
    assert (code, f"Suspend {ANN}? [y/N]" in shown) == (1, True)
    assert shell.json("users", "show", ANN)["status"] == "active"
    _, code = on_a_terminal("users", "suspend", ANN, env=shell.env, answer=b"y\n")
    assert (code, shell.json("users", "show", ANN)["status"]) == (0, "suspended")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_nouns_verbs_and_options(tmp_path):
    command = tmp_path / "sellapi"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "cli.py"} "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(sellapi completion bash)"; complete -p sellapi\n'
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
        '_sellapi_completion sellapi; echo "${COMPREPLY[*]}"; }\n'
        'try sellapi us; try sellapi users s; try sellapi users list --tier ""\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[1:] == ["users usage", "set show suspend", "free pro"]


def test_a_damaged_backup_is_named_as_the_operator_named_it(shell, tmp_path):
    broken = tmp_path / "broken.db"
    broken.write_text("no database")
    message = shell.error("db", "restore", str(broken), "--yes")
    assert message.startswith(f"{broken} cannot be restored")
    assert "db restore FILE" not in message


def test_docs_cli_md_says_what_the_commands_say():
    done = subprocess.run(
        [sys.executable, "-c", "import cli_docs, sys; sys.stdout.write(cli_docs.page())"],
        cwd=ROOT / "tools",
        env={n: v for n, v in os.environ.items() if n != "COLUMNS"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == (ROOT / "docs/cli.md").read_text("utf-8"), "python tools/cli_docs.py"


def test_a_list_that_goes_on_says_so_and_a_long_one_comes_at_once(shell, tmp_path):
    database = Database.open(tmp_path / "shop.db")
    with database.transaction() as tx:
        tx.connection.executemany(
            "INSERT INTO accounts (email, balance, created_at) VALUES (?, ?, 1)",
            ((f"u{n:05}@shop.test", n * 10**6) for n in range(11_000)),
        )
    database.close()
    start = time.perf_counter()
    listed = shell.run("users", "list")
    assert time.perf_counter() - start < 3
    lines = listed.stdout.splitlines()
    assert (len(lines), len({line.index("@shop") - len("u00000") for line in lines[1:]})) == (
        10_001,
        1,
    )
    assert "first 10,000 are shown" in listed.stderr
    whole = shell.run("users", "list", "--limit", "20000", "--json")
    assert (len(json.loads(whole.stdout)), whole.stderr) == (11_000, "")
