"""Networks on which a rewriting could go wrong: the numbers of ONNX Runtime, always.

All scales are powers of two, so float32 arithmetic is exact and the comparison is ``==``.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.networks.models import Graph
from tvm_qnn.compiler import read
from tvm_qnn.evaluate import evaluate
from tvm_qnn.passes.pipeline import to_integers

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
CASES = {}


def case(kind=FLOAT, shape=(1, 4, 6, 6), **refused):
    """Register a network: a function from graph and input to outputs with their types."""

    def register(function):
        CASES[function.__name__] = (function, kind, list(shape), refused.get("refused", ()))
        return function

    return register


def linear(g, x, scale, zero, dtype):
    """QuantizeLinear alone."""
    return g.node("QuantizeLinear", [x, *parameters(g, scale, zero, dtype)])


def parameters(g, scale, zero, dtype):
    return g.const(np.float32(scale)), g.const(np.dtype(dtype).type(zero))


def clip(g, x, low, high):
    return g.node("Clip", [x, g.const(np.float32(low)), g.const(np.float32(high))])


def conv(g, x, out=4, **attrs):
    return g.conv(x, g.weights([out, 4, 3, 3], -3, 3), **attrs)


def scalar(g, op, x, number):
    return g.node(op, [x, g.const(np.float32(number))])


def channels(g, op, x, numbers):
    return g.node(op, [x, g.const(np.float32(numbers).reshape(1, -1, 1, 1))])


@case()
def int8_codes_after_relu_are_the_output(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    return {linear(g, y, 0.5, 0, "int8"): INT8}


@case()
def int8_codes_after_clip_are_read_by_the_output_and_a_convolution(g, x):
    y = clip(g, conv(g, g.quantize(x, 0.125, 128)), 0, 1.5)
    codes = linear(g, y, 0.5, 0, "int8")
    again = conv(g, g.node("DequantizeLinear", [codes, *parameters(g, 0.5, 0, "int8")]))
    return {codes: INT8, again: FLOAT}


@case()
def codes_are_pooled_before_they_are_dequantized(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    codes = linear(g, y, 0.5, 0, "int8")
    codes = g.node("MaxPool", [codes], kernel_shape=[2, 2], pads=[1] * 4)
    y = g.node("DequantizeLinear", [codes, *parameters(g, 0.5, 0, "int8")])
    return {conv(g, y): FLOAT}


@case()
def relu_before_a_zero_point(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    return {g.quantize(y, 0.5, 9): FLOAT, g.quantize(y, 0.25, -100, "int8"): FLOAT}


@case()
def clip_bounds_off_the_grid(g, x):
    x = g.quantize(x, 0.125, 100)
    y = g.quantize(clip(g, x, -0.3, 0.7), 0.25, 9)
    return {conv(g, g.quantize(clip(g, conv(g, y), 0.3, 5.3), 0.5, 3)): FLOAT}


@case(refused=["clip"])
def clip_to_one_state(g, x):
    return {g.quantize(clip(g, conv(g, g.quantize(x, 0.125, 128)), 0, 0.125), 0.5): FLOAT}


@case(refused=["its", "multiply", "clip", "add"])
def half_steps_at_ties(g, x):
    y = g.node("Round", [clip(g, scalar(g, "Mul", x, 1.0), -1, 0)])
    return {conv(g, scalar(g, "Add", y, 0.5)): FLOAT}


@case(refused=["multiply", "clip", "round"])
def rounding_far_from_0(g, x):
    return {g.node("Round", [clip(g, scalar(g, "Mul", x, 20000.0), 65530, 70000)]): FLOAT}


@case(refused=["multiply", "clip"])
def codes_between_200_and_300(g, x):
    y = g.node("Round", [clip(g, scalar(g, "Mul", x, 100.0), 200, 300)])
    return {g.quantize(conv(g, y), 4.0, 3): FLOAT, g.quantize(y, 2.0, 3): FLOAT}


@case(refused=["add", "divide"])
def an_epsilon_is_not_0(g, x):
    y = g.node("Relu", [g.quantize(x, 0.125, 128)])
    return {g.node("Div", [y, scalar(g, "Add", y, 1e-8)]): FLOAT}


@case(refused=["clip", "divide"])
def a_lower_bound_against_division_by_0(g, x):
    y = g.node("Relu", [g.quantize(x, 0.125, 128)])
    return {g.node("Div", [y, clip(g, y, 1e-8, 100)]): FLOAT}


@case(refused=["multiply"])
def scales_beyond_float32(g, x):
    y = g.quantize(x, 0.125, 128)
    large = scalar(g, "Mul", scalar(g, "Mul", y, 2.0**126), 2.0**126)
    return {large: FLOAT}


@case(refused=["multiply", "multiply"])
def scales_below_float32(g, x):
    y = g.quantize(x, 0.125, 128)
    return {scalar(g, "Mul", scalar(g, "Mul", y, 2.0**-126), 2.0**-126): FLOAT}


@case()
def weights_that_are_quantized_in_the_graph(g, x):
    values = g.rng.standard_normal([4, 4, 3, 3]).astype(np.float32)
    return {
        g.conv(g.quantize(x, 0.125, 128), g.quantize(g.const(values), 0.0625, 0, "int8")): FLOAT
    }


@case()
def a_grouped_codebook(g, x):
    table = np.array([-0.4140625, 0.1015625, 0.53125], np.float32) + np.float32(2**-9)
    w = g.node("Gather", [g.const(table), g.const(g.rng.integers(0, 3, [4, 1, 3, 3]))])
    return {g.conv(g.quantize(x, 0.125, 128), w, group=4): FLOAT}


@case()
def a_bias_of_8_bits(g, x):
    bias = g.const(g.rng.integers(-128, 128, 4).astype(np.int8))
    bias = g.node("DequantizeLinear", [bias, *parameters(g, 0.125, -3, "int8")])
    y = g.conv(g.quantize(x, 0.125, 128), g.weights([4, 4, 3, 3]), bias)
    return {g.quantize(g.node("Relu", [y]), 0.5, 3): FLOAT}


@case()
def a_batch_norm_that_prunes_a_channel(g, x):
    y = conv(g, g.quantize(x, 0.125, 128))
    parts = [[1, 0, -2, 0.5], [0.5, 0.25, 0, 1], [0] * 4, [1] * 4]
    constants = [g.const(np.array(p, np.float32)) for p in parts]
    y = g.node("BatchNormalization", [y, *constants], epsilon=0.0)
    return {g.quantize(g.node("Relu", [y]), 0.5): FLOAT}


@case()
def a_scale_of_0_after_relu(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    return {g.quantize(channels(g, "Mul", y, [1, 0, 2, 0.5]), 0.5, 7): FLOAT}


@case()
def an_output_is_an_input(g, x):
    return {conv(g, g.quantize(x, 0.125, 128)): FLOAT, x: FLOAT}


@case()
def two_names_of_one_output(g, x):
    y = conv(g, g.quantize(x, 0.125, 128))
    return {y: FLOAT, g.node("Identity", [y]): FLOAT, g.node("Identity", [y]): FLOAT}


@case()
def a_convolution_is_read_as_float_and_quantized(g, x):
    y = conv(g, g.quantize(x, 0.125, 128))
    return {y: FLOAT, g.quantize(y, 0.5, 3): FLOAT, g.quantize(y, 0.25, -3, "int8"): FLOAT}


@case(refused=["nn.relu", "add"])
def a_bias_after_relu(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    return {g.quantize(channels(g, "Add", y, [-1, 2, 0, 0.5]), 0.5, 3): FLOAT}


@case()
def a_scalar_after_relu(g, x):
    y = g.node("Relu", [conv(g, g.quantize(x, 0.125, 128))])
    return {g.quantize(scalar(g, "Sub", y, 1.0), 0.5, 3): FLOAT}


@case()
def an_image_is_flattened_into_a_dense_layer(g, x):
    y = g.quantize(conv(g, g.quantize(x, 0.125, 128)), 0.5, 100)
    y = g.node("Gemm", [g.node("Flatten", [y]), g.weights([10, 64]), g.bias(10)], transB=1)
    return {g.quantize(y, 0.5, 4): FLOAT}


@case(refused=["its"])
def concatenation_of_two_types(g, x):
    x = g.quantize(x, 0.125, 128)
    parts = [g.quantize(conv(g, x, 2), scale, 100) for scale in (0.5, 0.25)]
    return {conv(g, g.node("Concat", parts, axis=1)): FLOAT}


@case()
def concatenation_of_one_type(g, x):
    x = g.quantize(x, 0.125, 128)
    parts = [g.quantize(conv(g, x, 2), 0.5, 100) for _ in range(2)]
    return {conv(g, g.node("Concat", parts, axis=1)): FLOAT}


@case()
def signed_codes_are_pooled_with_padding(g, x):
    y = g.node("MaxPool", [g.quantize(x, 0.125, -100, "int8")], kernel_shape=[3, 3], pads=[1] * 4)
    y = g.node("MaxPool", [g.limited(conv(g, y), 4, 1.0)], kernel_shape=[3, 3], pads=[1] * 4)
    return {conv(g, y): FLOAT}


@case(refused=["average"])
def averages_with_padding(g, x):
    x, attrs = g.quantize(x, 0.125, 100), {"kernel_shape": [2, 2], "pads": [1] * 4}
    counted = g.node("AveragePool", [x], count_include_pad=1, **attrs)
    return {g.quantize(counted, 0.25, 9): FLOAT, g.node("AveragePool", [x], **attrs): FLOAT}


@case()
def zero_points_of_grouped_weights_per_channel(g, x):
    scales = 2.0 ** g.rng.integers(-3, 1, 4)
    w = g.weights([4, 1, 3, 3], -8, 7, scales, zero=np.array([-5, 3, 0, 7]))
    return {g.quantize(g.conv(g.quantize(x, 0.125, 100), w, pads=[1] * 4, group=4), 2.0, 9): FLOAT}


@case(refused=["its"])
def activations_of_16_bits(g, x):
    codes = linear(g, x, 1 / 512, 3000, "uint16")
    y = g.node("DequantizeLinear", [codes, *parameters(g, 1 / 512, 3000, "uint16")])
    return {conv(g, y): FLOAT}


@case(kind=UINT8)
def codes_are_the_input(g, x):
    y = g.node("DequantizeLinear", [x, *parameters(g, 0.125, 100, "uint8")])
    other = g.node("DequantizeLinear", [x, *parameters(g, 0.5, 3, "uint8")])
    return {g.quantize(conv(g, y, pads=[1] * 4), 0.5, 9): FLOAT, conv(g, other): FLOAT}


@case(kind=INT8)
def signed_codes_are_input_and_output(g, x):
    y = g.node("DequantizeLinear", [x, *parameters(g, 0.125, -100, "int8")])
    return {linear(g, conv(g, g.node("Relu", [y])), 2.0, -7, "int8"): INT8, x: INT8}


@case()
def one_quantized_tensor_has_many_readers(g, x):
    y = g.limited(conv(g, g.quantize(x, 0.125, 128)), 4, 1.0)
    pooled = g.node("MaxPool", [y], kernel_shape=[2, 2])
    total = g.quantize(g.node("Add", [y, y]), 1.0, 3)
    return {conv(g, y): FLOAT, pooled: FLOAT, y: FLOAT, conv(g, total): FLOAT}


@case(refused=["its"])
def channels_are_sliced_and_split(g, x):
    x = g.quantize(x, 0.125, 100)
    ends = [g.const(np.array([v], np.int64)) for v in (1, 3, 1)]
    part = g.node("Slice", [x, *ends])
    name = g.name("split")
    g.nodes.append(
        helper.make_node("Split", [x], [f"{name}a", f"{name}b"], name=name, axis=1, num_outputs=2)
    )
    y = g.node("Concat", [f"{name}b", f"{name}a"], axis=1)
    return {g.conv(part, g.weights([3, 2, 1, 1])): FLOAT, conv(g, y): FLOAT}


@case(refused=["mean"])
def a_scalar_is_the_output(g, x):
    return {g.node("ReduceMean", [g.quantize(x, 0.125, 100)], keepdims=0): FLOAT}


@case(shape=(2, 8))
def residual_of_dense_layers_with_relu(g, x):
    x = g.quantize(x, 0.125, 7)
    y = g.node("Gemm", [x, g.weights([8, 8])], transB=1)
    y = g.node("Add", [g.quantize(y, 0.5, 100), x])
    return {g.quantize(g.node("Relu", [y]), 0.5, 2): FLOAT}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay(name):
    function, kind, shape, refused = CASES[name]
    g = Graph(shape)
    outputs = function(g, "x")
    graph = helper.make_graph(
        g.nodes,
        name,
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(o, k, None) for o, k in outputs.items()],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    x = g.input()
    if kind != FLOAT:
        x = g.rng.integers(*((0, 256) if kind == UINT8 else (-128, 128)), shape)
        x = x.astype(np.uint8 if kind == UINT8 else np.int8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    expected = session.run(None, {"x": x})
    program = to_integers(read(model).module)
    got = evaluate(program.module, {"x": x})[""]
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    assert [r.reason.split()[0] for r in program.refusals] == list(refused)
