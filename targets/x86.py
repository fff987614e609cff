"""PCs and servers."""

from tvm_qnn.targets.record import Rates, Target

AVX2 = Target(
    name="x86-avx2",
    description="x86-64 with AVX2 and FMA (Haswell, Zen and later)",
    triple="x86_64-linux-gnu",
    cpu="haswell",
    arch="x86_64",
    features=frozenset({"avx2"}),
    rates=Rates(dot=32, bitserial=340, reference=1, source="instruction tables, vpmaddwd"),
)

AVX512_VNNI = Target(
    name="x86-avx512-vnni",
    description="x86-64 with AVX-512 VNNI, BITALG and VPOPCNTDQ (Ice Lake, Zen 4 and later)",
    triple="x86_64-linux-gnu",
    cpu="icelake-server",
    arch="x86_64",
    features=frozenset({"avx2", "avx512", "vnni", "vpopcntdq"}),
    rates=Rates(dot=64, bitserial=512, reference=1, source="one 512-bit port each"),
)
