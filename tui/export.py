"""CSV files of what ledger and audit show, in pages, never over a file that is there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sellapi.admin import csv_cell, to_json
from sellapi.admin.service import Admin
from sellapi.admin.views import AuditRow, Entry
from sellapi.errors import Refused

__all__ = ["Exported", "export_audit", "export_ledger"]

PAGE = 1_000


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    file: str
    rows: int


def export_ledger(admin: Admin, path: Path, filters: Mapping[str, str]) -> Exported:
    """All ledger entries that match, newest first. Raises `Refused`."""

    def pages() -> Iterable[Sequence[Entry]]:
        before: int | None = None
        while page := admin.ledger.entries(**filters, before=before, limit=PAGE):  # type: ignore[arg-type]
            yield page
            before = page[-1].id

    return _write(path, [f.name for f in fields(Entry)], pages())


def export_audit(admin: Admin, path: Path, filters: Mapping[str, str]) -> Exported:
    """All acts that match, newest first. Raises `Refused`."""

    def pages() -> Iterable[Sequence[AuditRow]]:
        before: int | None = None
        while page := admin.audit.list(**filters, before=before, limit=PAGE):
            yield page
            before = page[-1].id

    return _write(path, [f.name for f in fields(AuditRow)], pages())


def _write(path: Path, columns: Sequence[str], pages: Iterable[Sequence[Any]]) -> Exported:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise Refused(f"there is a file {path} already: choose another name") from None
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from None
    rows = 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for page in pages:
                for row in to_json(tuple(page)):
                    writer.writerow([csv_cell(_flat(row[name])) for name in columns])
                    rows += 1
    except BaseException:
        path.unlink(missing_ok=True)  # half a file would be taken for a whole one
        raise
    return Exported(str(path), rows)


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value
