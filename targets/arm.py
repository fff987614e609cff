"""Raspberry Pi boards and other 64-bit ARM devices.

The rates are inner loops of ``llvm-mca`` models, not board measurements.
"""

from tvm_qnn.targets.record import Rates, Target

_MODEL = "llvm-mca inner loops"

AARCH64 = Target(
    name="aarch64",
    description="any 64-bit ARM (ARMv8.0, NEON)",
    triple="aarch64-linux-gnu",
    cpu="generic",
    arch="aarch64",
    features=frozenset({"neon"}),
    rates=Rates(dot=8, bitserial=85, reference=0.5, source=_MODEL),
    qemu_cpu="cortex-a53",
    mca_cpu=("cortex-a72",),
)

RPI3 = Target(
    name="rpi3",
    description="Raspberry Pi 3 and Zero 2 (Cortex-A53), 64-bit system",
    triple="aarch64-linux-gnu",
    cpu="cortex-a53",
    arch="aarch64",
    features=frozenset({"neon"}),
    rates=Rates(dot=3.8, bitserial=34.7, reference=0.3, source=_MODEL),
    qemu_cpu="cortex-a53",
    mca_cpu=("cortex-a53",),
)

RPI4 = Target(
    name="rpi4",
    description="Raspberry Pi 4 (Cortex-A72), 64-bit system",
    triple="aarch64-linux-gnu",
    cpu="cortex-a72",
    arch="aarch64",
    features=frozenset({"neon"}),
    rates=Rates(dot=8, bitserial=85, reference=0.5, source=_MODEL),
    qemu_cpu="cortex-a72",
    mca_cpu=("cortex-a72",),
)

RPI5 = Target(
    name="rpi5",
    description="Raspberry Pi 5 (Cortex-A76 with dot product), 64-bit system",
    triple="aarch64-linux-gnu",
    cpu="cortex-a76",
    arch="aarch64",
    features=frozenset({"neon", "dotprod"}),
    rates=Rates(dot=32, bitserial=85, reference=0.7, source=_MODEL),
    qemu_cpu="cortex-a76",
    # The scheduling model that llvm-mca has for the A76 is the A57's; the N1 is the same core.
    mca_cpu=("neoverse-n1", "-dispatch=4"),
)
