"""Cycles of a kernel without its device: executed blocks counted under qemu-user, llvm-mca costs.

Deterministic, and the results of the run are those of the kernel. ``programs`` compiles kernels to
a static program and runs it, ``blocks`` counts and costs what ran, ``kernels`` does both for one
kernel, and ``samples`` draws arguments.
"""
