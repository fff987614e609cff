"""Runs bundles for 64-bit ARM boards on this machine, under qemu-user."""

from tests.emulation.harness import EmulationError, available, run_emulated

__all__ = ["EmulationError", "available", "run_emulated"]
