"""explain: every float operator that is left has a reason."""

import numpy as np

from tests.passes.relax_modules import UINT8, floats, module, quantized, weights
from tvm_qnn._tvm import relax
from tvm_qnn.ops import build
from tvm_qnn.passes.explain import explain
from tvm_qnn.passes.pipeline import to_integers
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.spec import QType

SHAPE = [1, 2, 4, 4]
ACTIVATIONS = QType(UINT8, (0.5,), (10,))


def reasons(body, known=()):
    refusals = list(known)
    explain(module(SHAPE, body), refusals)
    return {r.node: r.reason for r in refusals}


def test_arithmetic_on_the_input():
    found = reasons(lambda emit, x: emit(build.quantize(emit(relax.op.exp(x), "e"), ACTIVATIONS)))
    assert found == {"e": "exp works on the real-valued input"}


def test_arithmetic_before_the_output():
    def body(emit, x):
        y = emit(build.dequantize(emit(build.quantize(x, ACTIVATIONS)), ACTIVATIONS))
        return emit(relax.op.add(emit(relax.op.sigmoid(y), "s"), floats(1.0)), "a")

    assert reasons(body) == {
        "s": "sigmoid makes a real-valued output of the network",
        "a": "add makes a real-valued output of the network",
    }


def test_arithmetic_between_quantizers():
    def body(emit, x):
        y = emit(relax.op.sigmoid(quantized(emit, x, ACTIVATIONS)), "s")
        joined = emit(relax.op.concat([y, y], 1), "c")
        return emit(build.quantize(joined, ACTIVATIONS))

    assert list(reasons(body)) == ["s"]
    assert "between quantizers" in reasons(body)["s"]


def test_what_has_a_reason_keeps_it_and_moves_need_none():
    def body(emit, x):
        y = emit(relax.op.exp(x), "e")
        turned = emit(relax.op.permute_dims(emit(relax.op.reshape(y, [1, 2, 16]), "r")), "p")
        codes = emit(build.quantize(turned, ACTIVATIONS), "q")
        return emit(relax.op.clip(codes, 1, 2), "clipped codes")

    known = Refusal("e", "said before", "nothing")
    assert reasons(body, [known]) == {"e": "said before"}


def test_an_integer_network_needs_no_excuse():
    kernel = np.random.default_rng(0).integers(-3, 4, [3, 2, 3, 3])

    def body(emit, x):
        y = emit(relax.op.nn.conv2d(quantized(emit, x, ACTIVATIONS), emit(weights(kernel))))
        return emit(build.quantize(emit(relax.op.nn.relu(y)), ACTIVATIONS))

    assert to_integers(module(SHAPE, body)).refusals == ()


def test_every_float_operator_of_a_network_is_named_once():
    kernel = floats(np.random.default_rng(0).standard_normal([3, 2, 3, 3]))

    def body(emit, x):
        y = emit(relax.op.nn.conv2d(quantized(emit, x, ACTIVATIONS), kernel), "conv")
        y = emit(relax.op.nn.softmax(emit(relax.op.sigmoid(y), "sig"), 1), "soft")
        return emit(build.quantize(y, ACTIVATIONS))

    refusals = to_integers(module(SHAPE, body)).refusals
    assert [r.node for r in refusals] == ["conv", "sig", "soft"]
    assert all(r.reason and r.remedy for r in refusals)
