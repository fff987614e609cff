"""Databases of tuned kernels: folders of plain files, one record a line, that people can merge."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_qnn.errors import QnnError
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules.family import Family
from tvm_qnn.schedules.records import Record, Work, digest, target_key, work_key
from tvm_qnn.targets.record import Target

SUFFIX = ".jsonl"
SHIPPED = Path(__file__).parent / "tuned"
"""The records that come with the package."""


class DatabaseError(QnnError):
    """A database is missing or damaged."""


class Database:
    """Records in memory; the better one of each kernel is kept.

    Args:
        records: to begin with.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._found: dict[tuple[str, ...], Record] = {}
        self.merge(records)

    def __iter__(self) -> Iterator[Record]:
        return iter(sorted(self._found.values(), key=lambda record: record.key))

    def __len__(self) -> int:
        return len(self._found)

    def merge(self, records: Iterable[Record]) -> int:
        """Take records that are new or gain more than what is there; return how many.

        Costs of different machines say little beside each other, while how much a schedule gains
        over the default one, measured in one session, does.
        """
        taken = 0
        for record in records:
            known = self._found.get(record.key)
            if known is None or record.gain > known.gain:
                self._found[record.key] = record
                taken += 1
        return taken

    def drop(self, records: Iterable[Record]) -> None:
        """Forget records."""
        for record in records:
            del self._found[record.key]

    def find(self, family: Family[Any], work: Work, target: Target) -> Record | None:
        """Return the record of a kernel, a measured one rather than an estimate; None without.

        Records of a kernel that the family no longer makes are passed over.
        """
        where = (target_key(target), work_key(work), family.name)
        units = [unit for unit in ("seconds", "cycles") if self._has(where, unit)]
        if not units:
            return None
        kernel = digest(family, work, target)
        found = (self._found.get((*where, kernel, unit)) for unit in units)
        return next((record for record in found if record is not None), None)

    def _has(self, where: tuple[str, str, str], unit: str) -> bool:
        return any(key[:3] == where and key[4] == unit for key in self._found)


def load(folder: str | Path) -> Database:
    """Read a database.

    Raises:
        DatabaseError: there is no such folder, or a line is no record.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DatabaseError(f"{place}: no such database; 'tvm-qnn tune' makes one")
    database = Database()
    for path in sorted(place.glob(f"*{SUFFIX}")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                database.merge([Record(**json.loads(line))])
            except (TypeError, ValueError) as error:
                raise DatabaseError(
                    f"{path}, line {number}: no record of tuning; delete the line"
                ) from error
    return database


def save(database: Database, folder: str | Path) -> None:
    """Write a database, a file for each target; a reader sees whole files only.

    Raises:
        DatabaseError: the folder cannot be written.
    """
    place = Path(folder)
    lines: dict[str, list[str]] = {}
    for record in database:
        text = json.dumps(record.__dict__, separators=(",", ":"))
        lines.setdefault(record.target, []).append(text)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in place.glob(f"*{SUFFIX}"):
            lines.setdefault(path.stem, [])
        for name, found in lines.items():
            path = place / f"{name}{SUFFIX}"
            partial = path.with_name(f"{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
            os.replace(partial, path)
    except OSError as error:
        raise DatabaseError(f"{place}: cannot be written ({error.strerror})") from error


def shipped() -> Database:
    """Return the records that come with the package."""
    return load(SHIPPED) if SHIPPED.is_dir() else Database()


def layouts(work: Work) -> list[Work]:
    """Return a piece of work with codes and with bit planes before and behind it."""
    if isinstance(work, CodebookWork):
        return [work]
    return [
        replace(work, x_planes=planes, epilogue=replace(work.epilogue, pack=pack))
        for planes in (False, True)
        for pack in (False, True)
    ]


UNTUNED = Database()
"""No records: default schedules."""
