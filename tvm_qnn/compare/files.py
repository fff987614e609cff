"""Reports as JSON files, which are checked when they are read."""

from __future__ import annotations

import json
import os
import types
import typing
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tvm_qnn.compare.rows import Report
from tvm_qnn.errors import QnnError

FORMAT = 1


class ReportError(QnnError):
    """A report is missing, damaged or of another format."""


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        ReportError: the file cannot be written.
    """
    write_text(path, json.dumps({"format": FORMAT, **asdict(report)}, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ReportError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ReportError(f"{path}: cannot be written ({error.strerror})") from error


def read_report(path: Path) -> Report:
    """Read what :func:`write_report` wrote.

    Raises:
        ReportError: there is no such file, or it holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ReportError(f"{path}: no JSON ({error}); copy the file again") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise ReportError(
            f"{path}: no report of 'tvm-qnn compare' of format {FORMAT}, but {found!r}; give the "
            "report.json of a comparison by this version"
        )
    try:
        return typing.cast(Report, _parsed(Report, {k: data[k] for k in data if k != "format"}))
    except (TypeError, ValueError) as error:
        raise ReportError(f"{path}: a damaged report ({error}); compare again") from error


@cache
def _fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _parsed(kind: Any, value: Any) -> Any:
    """Turn JSON values to what an annotation says.

    Raises:
        TypeError: they are something else.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _parsed(inner[0], value)
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} is no record")
        known = _fields(kind)
        if unknown := sorted(set(value) - set(known)):
            raise TypeError(f"{kind.__name__} has no {unknown[0]}")
        return kind(**{name: _parsed(known[name], part) for name, part in value.items()})
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(inner[0], part) for part in value)
    if origin is dict and isinstance(value, dict):
        return {str(name): _parsed(inner[1], part) for name, part in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise TypeError(f"{value!r:.40} where {getattr(kind, '__name__', kind)} belongs")
