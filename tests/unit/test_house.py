"""The house rules, held by tools: style, types, layers, locks, and nothing of one machine in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ("requirements.txt", "requirements-dev.txt")
LAYERED = ("cli.py", "sellapi", "tui")


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *words, cwd=cwd)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def tracked() -> list[Path]:
    done = run("git", "ls-files", "-z")
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_every_file_passes_the_linter():
    assert_clean(python("-m", "ruff", "check", "--output-format=concise", "."))


def test_every_file_has_the_formatters_shape():
    assert_clean(python("-m", "ruff", "format", "--check", "."))


@pytest.mark.timeout(300)
def test_every_type_is_told_and_true():
    assert_clean(python("-m", "mypy"))


def lint_imports(where: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, read and run in ``where``."""
    script = (
        "import sys; sys.path.insert(0, ''); from importlinter import cli; "
        "sys.exit(cli.lint_imports(no_cache=True))"
    )
    return python("-c", script, cwd=where)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The layered sources, to plant something in."""
    for name in (*LAYERED, "pyproject.toml"):
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_module_imports_only_what_stands_below_it():
    assert_clean(lint_imports(ROOT))


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("tui/planted.py", "import sellapi.storage.ledger", "tui.planted -> sellapi.storage"),
        ("sellapi/domain/planted.py", "import sanic", "sellapi.domain.planted -> sanic"),
        (
            "sellapi/upstream/planted.py",
            "from sellapi.storage import ledger",
            "sellapi.upstream.planted -> sellapi.storage",
        ),
        (
            "sellapi/gateway/planted.py",
            "import sellapi.api.app",
            "sellapi.gateway.planted -> sellapi.api",
        ),
    ],
)
def test_an_import_planted_against_the_layers_is_caught(
    copy: Path, module: str, line: str, told: str
):
    (copy / module).write_text(f"{line}\n", "utf-8")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert told in re.sub(r"\s+", " ", done.stdout)


def pins(lock: str) -> dict[str, tuple[str, int]]:
    """By package: its version, and how many hashes it is held to."""
    text = (ROOT / lock).read_text("utf-8")
    found = {}
    for block in re.split(r"\n(?=\S)", text):
        if block.startswith("#"):
            continue
        name, _, rest = block.partition("==")
        name = canonicalize_name(Requirement(name).name)
        found[name] = (rest.split()[0], block.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_by_version_and_hash(lock: str):
    found = pins(lock)
    assert len(found) > 20
    assert [name for name, (version, hashes) in found.items() if not version or not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address(lock: str):
    text = (ROOT / lock).read_text("utf-8")
    assert (
        re.findall(r"\w+://\S*|^\s*-i\b.*|--(?:extra-)?index-url|--find-links=|/\S*/\S+", text)
        == []
    )


def test_the_locks_hold_what_pyproject_asks_for():
    runtime, dev = pins("requirements.txt"), pins("requirements-dev.txt")
    asked = PROJECT["project"]["dependencies"]
    for lock, lines in (
        (runtime, asked),
        (dev, asked + PROJECT["project"]["optional-dependencies"]["dev"]),
    ):
        for requirement in map(Requirement, lines):
            version, _ = lock[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement}: {version} (make lock)"
    assert {name: dev[name] for name in runtime} == runtime


def asked_with_extras(packages: Iterable[str]) -> set[str]:
    """``name[extra]`` of everything that packages of these names want with an extra."""
    wanted = [Requirement(line) for name in packages for line in metadata.requires(name) or ()]
    return {
        f"{canonicalize_name(one.name)}[{extra}]"
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": ""})
        for extra in one.extras
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_extras_under_the_name_they_are_asked_for(lock: str):
    """Else the pip of Debian 12 refuses the lock once a newer release is out."""
    there = {name for name in pins(lock) if installed(name)}
    asked = asked_with_extras(there)
    assert "markdown-it-py[linkify]" in asked
    text = (ROOT / lock).read_text("utf-8")
    assert [name for name in asked if f"\n{name}==" not in text] == []


def installed(name: str) -> bool:
    """Packages for another system may be pinned and not be here."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_the_node_lock_names_no_address_to_fetch_from():
    lock = json.loads((ROOT / "tests/node/package-lock.json").read_text("utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if not entry.get("integrity")] == []


def test_no_file_names_a_path_of_one_machine():
    told = []
    for path in tracked():
        if b"\0" in (content := path.read_bytes()):
            continue
        text = content.decode("utf-8", "replace")
        told += [
            f"{path.relative_to(ROOT)}: {found}"
            for found in re.findall(r"(?<![\w.])/(?:work|home/\w+|Users/\w+)/\w\S*", text)
        ]
    assert told == []


def test_no_file_names_the_host_of_a_package_registry():
    hosts = "|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs"))
    told = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if re.search(hosts, path.read_bytes().decode("utf-8", "replace"))
    ]
    assert told == []


def test_ci_runs_the_command_the_readme_names():
    called = (ROOT / ".ci/run").read_text("utf-8")
    assert "make test-deps test" in called
    assert "make test\n" in (ROOT / "README.md").read_text("utf-8")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_make_help_names_every_target_a_person_calls():
    shown = run("make", "help")
    assert_clean(shown)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"make ([a-z-]+)", shown.stdout)) - {
        "test-deps test"
    }


def test_the_example_database_is_what_the_program_writes_today(tmp_path: Path):
    import sqlite3

    from sellapi.admin import files

    fresh = tmp_path / "fresh.db"
    files.example(fresh)

    def dump(path: Path) -> list[str]:
        # A WAL database that is opened leaves files beside it: the checkout is to stay clean.
        connection = sqlite3.connect(shutil.copy(path, tmp_path / "copy.db"))
        try:
            return list(connection.iterdump())
        finally:
            connection.close()

    assert dump(ROOT / "sellapi.db.example") == dump(fresh), "make example"
