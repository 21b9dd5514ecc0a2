"""What a newcomer meets: a clone, `make`, and a machine that may lack something."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.process import ROOT, SOURCE, clean_env, serve
from tests.support.tools import need


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, and nothing else."""
    target = tmp_path_factory.mktemp("clone") / "shop"
    done = subprocess.run(
        ["git", "clone", "--quiet", "--local", str(ROOT), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr}")
    return target


def bare_path(folder: Path, **programs: str) -> str:
    """A PATH with the shell's own tools and ``programs`` (name -> shell script), no Python."""
    folder.mkdir()
    for name in ("bash", "dirname", "id", "flock", "sh", "touch", "env", "make", "awk", "cat"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


def setup(where: Path, path: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(where / "tools/setup.sh"), *words],
        env={"PATH": path, "HOME": str(where), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_clone_holds_all_that_the_command_needs(clone: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(clone / "cli.py"), "init", "--json"],
        cwd=tmp_path,
        env=clean_env(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sellapi.db").stat().st_mode & 0o777 == 0o600


def test_make_run_starts_the_demo_of_the_clone(clone: Path):
    done = subprocess.run(
        ["make", "--dry-run", "run"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "tools/setup.sh runtime",
        "exec .venv/bin/python cli.py serve --demo ",
    ]


def test_a_machine_without_python_is_told_what_to_install(clone: Path, tmp_path: Path):
    done = setup(clone, bare_path(tmp_path / "bin"), "runtime")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; this machine has no python3" in done.stderr
    assert "sudo apt-get install python3 python3-venv" in done.stderr


def test_a_python_too_old_is_named_with_its_version(clone: Path, tmp_path: Path):
    old = 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac'
    done = setup(clone, bare_path(tmp_path / "bin", python3=old), "runtime")
    assert done.returncode == 1
    assert "this machine has Python 3.9.2" in done.stderr


def test_a_debian_python_without_venv_is_told_which_package_to_install(clone: Path, tmp_path: Path):
    lacking = 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.11;; *) exit 0;; esac'
    path = bare_path(tmp_path / "bin", **{"python3.11": lacking})
    done = setup(clone, path, "runtime")
    assert done.returncode == 1
    assert "sudo apt-get install python3.11-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_named_by_hand_that_does_not_exist_is_said(clone: Path, tmp_path: Path):
    done = setup(clone, bare_path(tmp_path / "bin"), "runtime", PYTHON="python9")
    assert done.returncode == 1
    assert "PYTHON=python9: there is no such program" in done.stderr


def test_the_demo_greets_with_lines_that_work_and_stops_at_once_on_ctrl_c(tmp_path: Path):
    with serve("--demo", cwd=tmp_path, env=clean_env(tmp_path), command=SOURCE) as served:
        assert f'base_url="{served.url}"' in served.output
        curl = served.output[served.output.index("curl -N") :].partition("\n\n")[0]
        need("curl")
        done = subprocess.run(
            ["bash", "-c", curl], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.stdout.rstrip().endswith("data: [DONE]"), done.stdout + done.stderr
        snippet = served.output[served.output.index("from openai") :].partition("\nStop")[0]
        done = subprocess.run(
            [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=False
        )
        assert "Write a haiku" in done.stdout, done.stderr
        assert served.stop(signal.SIGINT) in (0, 130), served.output


def test_the_demo_mints_a_fresh_key_each_start_and_the_old_one_no_longer_works(tmp_path: Path):
    keys = []
    for _ in range(2):
        with serve("--demo", cwd=tmp_path, env=clean_env(tmp_path), command=SOURCE) as served:
            keys.append(served.key)
            codes = [
                httpx.get(
                    f"{served.url}/credits", headers={"authorization": f"Bearer {key}"}
                ).status_code
                for key in keys
            ]
            served.stop()
    assert codes == [401, 200]


def test_a_crowd_may_connect_while_the_server_is_busy(tmp_path: Path):
    """The system takes what comes at once: a client it turns away tries again only after a second."""
    limit = Path("/proc/sys/net/core/somaxconn")
    most = int(limit.read_text()) if limit.exists() else 128
    with serve("--demo", cwd=tmp_path, env=clean_env(tmp_path), command=SOURCE) as served:
        port = int(served.url.split(":")[2].partition("/")[0])
        served.process.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as crowd:
            for _ in range(min(600, most)):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.7))
        served.process.send_signal(signal.SIGCONT)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        served.stop()


def test_a_taken_port_is_said_in_a_sentence(tmp_path: Path):
    with serve("--demo", cwd=tmp_path, env=clean_env(tmp_path), command=SOURCE) as served:
        port = served.url.split(":")[2].partition("/")[0]
        done = subprocess.run(
            [*SOURCE, "serve", "--demo", "--port", port],
            cwd=tmp_path,
            env=clean_env(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
        assert "Traceback" not in done.stderr
        served.stop()
