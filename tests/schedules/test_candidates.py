"""Which family a target gets for which bits, and why others stand back; nothing is compiled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import candidates, family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

U8, S8 = Codes(0, 255), Codes(-127, 127)
LAYER = ConvWork(1, 14, 14, 256, 256, (3, 3), U8, S8, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("target", "x", "w", "fastest"),
    [
        (AVX512_VNNI, Codes(0, 1), Codes(-1, 1, 2), "bitserial"),
        (AVX512_VNNI, Codes(0, 3), Codes(-2, 1), "bitserial"),
        (AVX512_VNNI, Codes(0, 7), Codes(-4, 3), "dot"),
        (AVX512_VNNI, U8, S8, "dot"),
        (AVX2, Codes(0, 1), Codes(-1, 1, 2), "bitserial"),
        (AVX2, Codes(0, 3), Codes(-2, 1), "dot"),
        (AVX2, U8, S8, "dot"),
    ],
)
def test_the_order_that_measurements_found(target, x: Codes, w: Codes, fastest: str) -> None:
    able, _ = candidates(replace(LAYER, x=x, w=w), target)
    assert able[0][0].name == fastest
    assert [cycles for _, cycles in able] == sorted(cycles for _, cycles in able)
    assert able[-1][0].name == "reference"


def test_every_other_family_gives_its_reason() -> None:
    able, refusals = candidates(replace(LAYER, groups=4), AVX2)
    assert [f.name for f, _ in able] == ["reference"]
    assert {r.node for r in refusals} == {"bitserial", "dot"}
    assert all("4 channel groups" in str(r) for r in refusals)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epilogue": Epilogue("affine", pack=True)}, "pack codes only"),
        ({"epilogue": Epilogue("requantize", Codes(0, 511), pack=True)}, "at most 8 bits"),
        ({"epilogue": Epilogue("requantize", Codes(0, 2**25))}, "float32 cannot clip"),
        ({"w": Codes(-(2**17), 2**17)}, "more than 16 bits"),
    ],
)
def test_what_no_family_computes(change: dict, reason: str) -> None:
    able, refusals = candidates(replace(LAYER, **change), AVX512_VNNI)
    assert able == []
    assert reason in " ".join(map(str, refusals))


def test_saturating_products_are_never_chosen() -> None:
    """VPMADDUBSW saturates pairs of products at 16 bits; 7-bit activations are safe."""
    dot = family("dot")
    name = {
        bits: dot.part(work, AVX2).instruction(work, AVX2).name
        for bits, work in ((b, replace(LAYER, x=Codes(0, 2**b - 1))) for b in (7, 8))
    }
    assert name == {7: "vpmaddubsw", 8: "vpmaddwd"}


def test_unknown_families() -> None:
    with pytest.raises(KeyError):
        family("winograd")
