"""Build the zipapp as shiv.toml says: ``python tools/zipapp.py [OUTPUT]``.

The lock's packages are installed, hash by hash, into ``build/zipapp/<hash of the lock>`` (kept for
the next build); the project comes as a wheel built from a copy of its sources, so that nothing
stale in the checkout gets in. Whatever differs from one build folder to the next (paths in scripts
and RECORD files) is left out: two builds of the same sources are the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> None:
    recipe = tomllib.loads((ROOT / "shiv.toml").read_text("utf-8"))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not str(recipe["python"]).endswith(f"python{version}"):
        sys.exit(
            f"shiv.toml wants {recipe['python']}, but this is Python {version}: "
            "make clean zipapp PYTHON=python3.11"
        )
    output = Path(arguments[0]).resolve() if arguments else ROOT / recipe["output"]
    output.parent.mkdir(parents=True, exist_ok=True)
    packages = _packages(ROOT / recipe["lock"])
    with tempfile.TemporaryDirectory(prefix="sellapi-zipapp-") as folder:
        project = _project(recipe, Path(folder))
        preamble = _preamble(ROOT / recipe["preamble"], Path(folder), version)
        unfinished = Path(folder, output.name)
        _shiv(recipe, [packages, project], preamble, unfinished)
        # Beside the target first: a running server must never see half a file.
        beside = output.with_name(f".{output.name}.{os.getpid()}")
        shutil.move(unfinished, beside)
        beside.replace(output)
    size_mb = output.stat().st_size / 1_000_000
    print(f"{output} ({size_mb:.1f} MB, for Python {version} on {sysconfig.get_platform()})")


def _packages(lock: Path) -> Path:
    """The installed packages of the lock; the folder's name is the hash of all it depends on."""
    asked = lock.read_bytes() + sys.version.encode() + Path(__file__).read_bytes()
    folder = ROOT / "build" / "zipapp" / hashlib.sha256(asked).hexdigest()[:16]
    with _alone(folder.parent):
        if not folder.exists():
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            _pip("install", "--require-hashes", "--no-compile", "--target", new, "-r", lock)
            _strip(new)
            new.rename(folder)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _project(recipe: dict[str, Any], folder: Path) -> Path:
    """The project's own wheel, unpacked."""
    copy, wheels, site = folder / "source", folder / "wheels", folder / "site"
    copy.mkdir()
    for name in recipe["sources"]:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, copy)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    _strip(site)
    return site


def _strip(site: Path) -> None:
    """Leave out what names this machine: start scripts, install records, caches."""
    shutil.rmtree(site / "bin", ignore_errors=True)
    for cache in list(site.rglob("__pycache__")):
        shutil.rmtree(cache)
    for info in site.glob("*.dist-info"):
        for name in ("RECORD", "direct_url.json", "INSTALLER", "REQUESTED"):
            (info / name).unlink(missing_ok=True)


def _preamble(source: Path, folder: Path, version: str) -> Path:
    text = source.read_text("utf-8")
    filled = text.replace("@VERSION@", version).replace("@PLATFORM@", sysconfig.get_platform())
    target = folder / source.name
    target.write_text(filled, "utf-8")
    return target


def _shiv(recipe: dict[str, Any], sites: list[Path], preamble: Path, output: Path) -> None:
    command = [sys.executable, "-m", "shiv", "-e", recipe["entry-point"], "-p", recipe["python"]]
    command += [*recipe["options"], "--preamble", str(preamble), "-o", str(output)]
    for site in sites:
        command += ["--site-packages", str(site)]
    _run(command)


def _pip(*arguments: str | Path) -> None:
    _run([sys.executable, "-m", "pip", *map(str, arguments)])


def _run(command: list[str]) -> None:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_QUIET": "1"}
    # The zip's order and times must not depend on the shell's settings.
    fixed = {"PYTHONWARNINGS": "ignore", "PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
    done = subprocess.run(
        command, env=os.environ | quiet | fixed, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(f"zipapp: `{Path(command[0]).name} {' '.join(command[1:3])}` failed; see above")


if __name__ == "__main__":
    main(sys.argv[1:])
