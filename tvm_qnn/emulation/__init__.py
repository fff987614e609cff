"""Run bundles for 64-bit ARM boards on this machine, under qemu-user.

Results are exact, and code with instructions that the board lacks traps; times mean nothing.
"""

from tvm_qnn.emulation.harness import EmulationError, available, run_emulated
from tvm_qnn.emulation.prepare import prepare
from tvm_qnn.emulation.userland import default_folder

__all__ = ["EmulationError", "available", "default_folder", "prepare", "run_emulated"]
