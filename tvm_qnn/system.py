"""Facts that this system tells in files, and versions of installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def file_text(name: str) -> str:
    """Return a text file without white space around it; "" where it cannot be read."""
    try:
        return Path(name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
