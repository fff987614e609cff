"""Where the emulated board's files lie, and whether they are complete and current."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from tvm_qnn.targets.device_library import cache_folder

PREPARE = "run tvm-qnn targets --prepare-emulation"


def default_folder() -> Path:
    """Return where the userland is kept."""
    return cache_folder() / "emulated-aarch64"


def wanted() -> dict[str, str]:
    """What a userland must be prepared for; it is stored beside it when it is complete."""
    return {"apache-tvm-ffi": version("apache-tvm-ffi"), "apache-tvm": version("apache-tvm")}


def missing(folder: Path) -> str | None:
    """Say why the userland in ``folder`` cannot be used, or return None."""
    try:
        found = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no emulated userland in {folder}: {PREPARE}"
    if found != wanted():
        return f"the emulated userland in {folder} is of other versions: {PREPARE}"
    return None
