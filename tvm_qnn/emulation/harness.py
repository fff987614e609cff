"""Run the ``run.py`` of a bundle under qemu-user, as the processor of a given board."""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.emulation.userland import default_folder, missing

_PROGRAM = "qemu-aarch64"


class EmulationError(Exception):
    """The emulated program failed; ``returncode`` is -4 after an illegal instruction."""

    def __init__(self, returncode: int, output: str) -> None:
        super().__init__(f"exit code {returncode}: {output.strip()}")
        self.returncode = returncode
        self.output = output


def available() -> str | None:
    """Return None if bundles can be run here, else the reason why not."""
    if shutil.which(_PROGRAM) is None:
        return f"{_PROGRAM} is not installed: apt-get install qemu-user"
    return missing(default_folder())


def run_emulated(
    bundle: Path, cpu: str, inputs: Path, timeout: float = 120
) -> dict[str, NDArray[Any]]:
    """Run a bundle on a file of inputs.

    Args:
        bundle: folder of the bundle.
        cpu: processor as qemu calls it; it traps on instructions that the processor lacks.
        inputs: ``.npz`` with the inputs by name.
        timeout: seconds.

    Returns:
        The outputs by name.

    Raises:
        EmulationError: if the program fails or is killed by a signal.
    """
    root = default_folder() / "root"
    python = next((root / "usr" / "bin").glob("python3.*"))
    with tempfile.TemporaryDirectory() as scratch:
        outputs = Path(scratch) / "out.npz"
        environment = {
            "PYTHONHOME": str(root / "usr"),
            "PYTHONPATH": str(root / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [
            str(shutil.which(_PROGRAM)),
            "-cpu",
            cpu,
            "-L",
            str(root),
            str(python),
            str(bundle / "run.py"),
        ]
        done = subprocess.run(
            [*command, str(inputs), str(outputs), "--repeat", "1"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=scratch,
            env=environment | {"PATH": "/usr/bin:/bin"},
            preexec_fn=_no_core_files,
        )
        if done.returncode != 0:
            raise EmulationError(done.returncode, done.stderr)
        with np.load(outputs, allow_pickle=False) as arrays:
            return dict(arrays)


def _no_core_files() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
