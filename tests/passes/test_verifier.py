"""verifier: broken modules are caught, with the phase and the operator."""

import numpy as np
import pytest

from tests.passes.relax_modules import INT8, UINT8, floats, module, weights
from tvm_qnn._tvm import relax, tvm
from tvm_qnn.errors import VerifyError
from tvm_qnn.ops import build, code_attrs, make
from tvm_qnn.passes.verifier import verify_module
from tvm_qnn.spec import Codes, QType

SHAPE = [1, 4, 4, 3]


def conv(emit, x, codes, kind):
    return emit(
        build.conv2d(
            x, build.const(codes, "int8"), x_codes=UINT8, x_zero=0, w_codes=kind, w_zero=[0],
            strides=[1, 1], padding=(0, 0, 0, 0), dilation=[1, 1], groups=1,
        ),
        "conv",
    )  # fmt: skip


def good(emit, x):
    return conv(emit, x, np.ones([2, 1, 1, 3]), Codes(-1, 1))


def test_a_good_module_passes_every_phase():
    mod = module(SHAPE, good, "uint8")
    for phase in ("canonicalize", "infer_quantization", "recognize", "fold_epilogues"):
        verify_module(mod, phase)


def test_weights_outside_of_their_codes():
    mod = module(
        SHAPE, lambda emit, x: conv(emit, x, np.full([2, 1, 1, 3], 2), Codes(-1, 1)), "uint8"
    )
    with pytest.raises(
        VerifyError, match=r"after recognize: conv holds codes outside of \[-1..1\]"
    ):
        verify_module(mod, "recognize")


def test_weights_between_the_steps():
    mod = module(
        SHAPE, lambda emit, x: conv(emit, x, np.zeros([2, 1, 1, 3]), Codes(-1, 1, 2)), "uint8"
    )
    with pytest.raises(VerifyError, match=r"outside of \[-1..1:2\]"):
        verify_module(mod, "recognize")


def test_indices_outside_of_a_codebook():
    def body(emit, x):
        geometry = {"strides": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
        index = build.const(np.full([2, 1, 1, 3], 2), "uint8")
        parts = [x, index, build.const([[0.3, 0.7]], "float32")]
        call = make("qnn.codebook_conv2d", parts, **code_attrs(UINT8, "x_"), x_zero=0, **geometry)
        return emit(call, "conv")

    with pytest.raises(VerifyError, match=r"after recognize: conv holds codes outside of \[0..1\]"):
        verify_module(module(SHAPE, body, "uint8"), "recognize")


def test_dequantized_constants_outside_of_their_codes():
    def body(emit, x):
        typed = build.dequantize(build.const([9], "int8"), QType(Codes(-3, 3)))
        return emit(relax.op.add(x, emit(typed, "weights")))

    with pytest.raises(VerifyError, match="weights holds codes"):
        verify_module(module([1], body), "canonicalize")


def test_operators_that_a_phase_removes():
    def body(emit, x):
        scale, zero = floats(0.5), relax.const(np.array(0, "int8"))
        return emit(relax.op.quantize(x, scale, zero, out_dtype="int8"), "q")

    with pytest.raises(VerifyError, match=r"after canonicalize: q is still relax\.quantize"):
        verify_module(module([4], body), "canonicalize")


def test_a_convolution_without_a_kernel():
    with pytest.raises(VerifyError, match="after select_kernels: conv has no kernel"):
        verify_module(module(SHAPE, good, "uint8"), "select_kernels")


def test_an_operator_that_was_not_lowered():
    with pytest.raises(VerifyError, match=r"after lower: conv is still qnn.conv2d"):
        verify_module(module(SHAPE, good, "uint8"), "lower")


def test_a_variable_from_nowhere():
    mod = module([4], lambda emit, x: emit(relax.op.nn.relu(x)))
    stranger = relax.Var("stranger", relax.TensorType([4], "float32"))
    main = mod["main"]
    broken = relax.Function([stranger], main.body, main.ret_ty).with_attr("global_symbol", "main")
    with pytest.raises(VerifyError, match="not well formed"):
        verify_module(tvm.IRModule({"main": broken}), "recognize")


def test_float_weights_are_not_its_business():
    mod = module(
        [1, 3, 4, 4],
        lambda emit, x: emit(
            relax.op.nn.conv2d(x, emit(weights(np.ones([2, 3, 1, 1], int) * INT8.hi)))
        ),
    )
    verify_module(mod, "recognize")
