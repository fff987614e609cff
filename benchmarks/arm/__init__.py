"""Cycles of AArch64 kernels without a board: executed blocks under qemu-user x llvm-mca."""
