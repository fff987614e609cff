"""Peak memory of a program, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from pathlib import Path
from tvm_qnn.arrays import random_arrays
from tvm_qnn.device_run import load_runtime
from tvm_qnn.manifest import read_manifest
from tvm_qnn.runtime import load

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

folder = Path(sys.argv[1])
arrays = random_arrays(read_manifest(folder).inputs)
load_runtime(folder)
# From here on the peak counts anew.
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
program = load(folder, int(sys.argv[2]))
for _ in range(3):
    program.run(arrays)
print(memory("VmHWM") - before)
"""


def peak_bytes(artifact: Path, threads: int) -> int | None:
    """Return what a process needs more, at its peak, than before it loads an artifact.

    None where the system does not tell.
    """
    folder = artifact.resolve()
    command = [sys.executable, "-c", _CODE, str(folder), str(threads)]
    # Python looks for packages in its working directory first.
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return max(0, int(done.stdout)) if done.returncode == 0 else None
