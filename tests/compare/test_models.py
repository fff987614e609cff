"""Energy and roof from what they are counted by."""

import pytest

from tvm_qnn.compare.energy import operations, picojoules
from tvm_qnn.compare.roofline import peak, roof
from tvm_qnn.compare.rows import ESTIMATED, HERE, Cost, Machine, Operator
from tvm_qnn.inspection import Row
from tvm_qnn.targets.arm import RPI4


def row(macs, weight_bits, activation_bits, codebook=0, shape=(1, 2, 3)):
    return Row(
        "n", "conv2d", shape, weight_bits, activation_bits, codebook, macs, 0, "", "", ""
    )  # fmt: skip


def operator(kernel, macs=6400, bits=(2, 2), codebook=0, moved=640):
    return Operator("n", "conv2d", kernel, (1,), *bits, codebook, macs, 0, moved, 0.0, None, "")


def test_operations_of_integers_and_floats():
    assert operations([row(100, 8, 8)]) == {"int8 multiply": 100, "int32 add": 100}
    assert operations([row(64, 2, 4), row(64, 1, 1)]) == {"int8 multiply": 9, "int32 add": 128}
    assert operations([row(10, 32, 32)]) == {"fp32 multiply": 10, "fp32 add": 10}
    assert operations([row(16, 0, 8)]) == {"int8 multiply": 16, "int32 add": 16}
    assert operations([row(0, 0, 8)]) == {}


def test_m_ary_weights_multiply_once_for_each_value():
    found = operations([row(600, 3, 8, codebook=5)])
    assert found == {"int32 add": 600, "fp32 multiply": 30, "fp32 add": 30}
    assert picojoules(found) == pytest.approx(600 * 0.1 + 30 * 3.7 + 30 * 0.9)


RATES = {"dot": 8.0, "bitserial": 80.0}


@pytest.mark.parametrize(
    ("kernel", "bits", "codebook", "expected"),
    [
        ("qconv2d_w8a8_dot", (8, 8), 0, 8),
        ("qconv2d_w2a2_bitserial", (2, 2), 0, 20),
        ("qconv2d_w1a1_bitserial", (1, 1), 0, 80),
        ("qconv2d_m4a8_dot", (2, 8), 4, 2),
        ("qconv2d_m4a2_bitserial", (2, 2), 4, 10),
        ("qconv2d_m4a8_taps", (2, 8), 4, 8),
        ("qconv2d_w8a8_reference", (8, 8), 0, 0.5),
        ("fused_conv2d_relu", (32, 32), 0, 4),
    ],
)
def test_peaks_of_the_families(kernel, bits, codebook, expected):
    assert peak(operator(kernel, bits=bits, codebook=codebook), RPI4, RATES) == expected


def machine(bandwidth):
    return Machine("cpu", "aarch64", (), 4, "", None, bandwidth, {"dot": 64.0}, "", {}, "")


def test_the_larger_of_both_times_is_the_roof():
    cost = Cost(HERE, "seconds", 200.0, 200.0, 200.0, 5)
    found = roof(operator("qconv2d_w8a8_dot", bits=(8, 8)), cost, RPI4, machine(10.0))
    assert (found.compute, found.memory, found.bound, found.share) == (100, 64, "compute", 0.5)
    found = roof(operator("qconv2d_w8a8_dot", bits=(8, 8)), cost, RPI4, machine(4.0))
    assert (found.compute, found.memory, found.bound, found.share) == (100, 160, "memory", 0.8)
    assert found.intensity == 10


def test_nothing_is_known_of_the_memory_of_a_model():
    cost = Cost.model(ESTIMATED, 1600.0)
    found = roof(operator("qconv2d_w8a8_dot", bits=(8, 8)), cost, RPI4, None)
    assert (found.compute, found.memory, found.bound, found.share) == (800, 0, "", 0.5)
    assert roof(operator("qnn_pack", macs=0), cost, RPI4, None) is None
