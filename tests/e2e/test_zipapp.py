"""The product as it is handed over: one file, run in an empty folder, far from the checkout."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.process import ROOT, clean_env, serve

pytestmark = pytest.mark.timeout(600)  # the first build installs every package of the lock


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zipapp, built from this checkout."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("shiv.toml builds for Python 3.11")
    target = tmp_path_factory.mktemp("built") / "sellapi.pyz"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/zipapp.py"), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what the zipapp unpacks, once for all tests."""
    return tmp_path_factory.mktemp("home")


def command(pyz: Path) -> tuple[str, ...]:
    """As its shebang would start it; this Python, since it may not be on PATH."""
    return (sys.executable, str(pyz))


def run(pyz: Path, home: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(pyz), *words],
        cwd=cwd,
        env=clean_env(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(pyz: Path, home: Path, cwd: Path, *words: str) -> dict[str, object]:
    done = run(pyz, home, cwd, *words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_it_is_executable_and_says_which_python_it_wants(pyz: Path):
    assert pyz.stat().st_mode & stat.S_IXUSR
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3.11\n")


def test_a_shop_is_opened_and_serves_from_an_empty_folder(pyz: Path, home: Path, tmp_path: Path):
    assert told(pyz, home, tmp_path, "init")["created"] is True
    told(pyz, home, tmp_path, "users", "add", "ann@shop.test")
    key = str(told(pyz, home, tmp_path, "keys", "create", "ann@shop.test")["key"])
    with serve(command=command(pyz), cwd=tmp_path, env=clean_env(home)) as served:
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.get(f"{served.url}/credits", headers=headers)
        assert answer.status_code == 200
        assert answer.json()["balance"] == "10000"
        assert served.stop() == 0, served.output
    assert told(pyz, home, tmp_path, "ledger", "verify")["ok"] is True


def test_the_demo_answers_a_streamed_call_from_it_and_charges_it(
    pyz: Path, home: Path, tmp_path: Path
):
    with serve("--demo", command=command(pyz), cwd=tmp_path, env=clean_env(home)) as served:
        with openai.OpenAI(base_url=served.url, api_key=served.key) as client:
            before = client.get("/credits", cast_to=dict[str, str])
            stream = client.chat.completions.create(
                model="anthropic/claude-sonnet-4.6",
                messages=[{"role": "user", "content": "Hello!"}],
                stream=True,
            )
            words = [c.choices[0].delta.content or "" for c in stream if c.choices]
            after = client.get("/credits", cast_to=dict[str, str])
        assert "Hello" in "".join(words)
        assert float(after["balance"]) < float(before["balance"])
        assert served.stop() == 0, served.output


def test_the_screens_are_in_it(pyz: Path, home: Path, tmp_path: Path):
    done = run(pyz, home, tmp_path, "tui", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: sellapi tui" in done.stdout
    names = zipfile.ZipFile(pyz).namelist()
    styles = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tui").rglob("*.tcss")}
    assert styles <= {n.removeprefix("site-packages/") for n in names}


def test_every_module_and_data_file_of_the_checkout_is_in_it(pyz: Path):
    names = {n.removeprefix("site-packages/") for n in zipfile.ZipFile(pyz).namelist()}
    sources = {
        path.relative_to(ROOT).as_posix()
        for top in ("sellapi", "tui")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources | {"cli.py"} <= names


def test_nothing_in_it_names_the_machine_it_was_built_on(pyz: Path):
    with zipfile.ZipFile(pyz) as archive:
        own = [
            name
            for name in archive.namelist()
            if name.endswith((".py", ".json", ".txt", "METADATA", "RECORD"))
            and os.fsencode(ROOT) + b"/" in archive.read(name)
        ]
    assert own == []


def test_a_python_it_was_not_built_for_is_told_so_in_words(pyz: Path, tmp_path: Path):
    preamble = zipfile.ZipFile(pyz).read("site-packages/bin/preamble.py").decode()
    script = tmp_path / "preamble.py"
    script.write_text(preamble.replace('("3.11",', '("3.9",'), "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "was built for Python 3.9" in done.stderr
    assert "make zipapp" in done.stderr
