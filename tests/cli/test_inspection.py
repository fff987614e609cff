"""What ``inspect`` says of operators that TVM runs on integers."""

import numpy as np

from tests.networks.models import Graph
from tvm_qnn.compiler import inspect


def test_integer_operators_of_tvm_are_not_called_float():
    g = Graph([1, 4, 4, 4])
    x = g.node("Relu", [g.quantize("x", 0.125, 100)])
    x = g.node("Concat", [x, x], axis=1)
    y = g.quantize(g.conv(x, g.weights([4, 8, 3, 3])), 0.5, 3)
    inspection = inspect(g.model(g.node("Sigmoid", [y])))
    kernels = {row.operator: row.kernel for row in inspection.rows}
    assert kernels["clip"] == "relax.clip"
    assert kernels["concat"] == "relax.concat"
    assert kernels["sigmoid"] == "float"
    assert {r.activation_bits for r in inspection.rows if r.operator in ("clip", "concat")} == {8}
    assert [r.reason.split()[0] for r in inspection.refusals] == ["sigmoid"]


def test_weights_and_multiplications_are_counted_once():
    g = Graph([2, 4, 5, 5])
    x = g.quantize("x", 0.125, 100)
    x = g.quantize(g.conv(x, g.weights([8, 2, 3, 3], -1, 1), group=2, strides=[2, 2]), 0.5)
    table = np.array([-0.4, 0.1, 0.5], np.float32)
    w = g.node("Gather", [g.const(table), g.const(g.rng.integers(0, 3, [5, 8, 1, 1]))])
    inspection = inspect(g.model(g.conv(x, w)))
    found = {r.operator + str(r.codebook): r for r in inspection.rows if r.macs}
    grouped, codebook = found["conv2d0"], found["conv2d3"]
    assert grouped.macs == 2 * 2 * 2 * 8 * 2 * 9
    assert grouped.weight_bytes == 8 * 2 * 9 * 2 // 8
    assert codebook.macs == 2 * 2 * 2 * 5 * 8
    assert codebook.weight_bytes == 5 * 8 * 2 // 8 + 3 * 4
    assert inspection.weight_bytes == grouped.weight_bytes + codebook.weight_bytes
    assert inspection.float_weight_bytes == 4 * (8 * 2 * 9 + 5 * 8)
