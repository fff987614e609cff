"""select_kernels, plan_layout and lower: which kernel runs what, and that nothing is left."""

import numpy as np
import pytest

from tests.passes.relax_modules import INT8, UINT8, call_of, module, ops, outputs, same
from tvm_qnn import targets
from tvm_qnn._tvm import relax, tvm
from tvm_qnn.compiler import build_executable
from tvm_qnn.ops import attrs_of, build, code_attrs, make
from tvm_qnn.passes.lower import lower
from tvm_qnn.passes.pipeline import choose_kernels, to_kernels
from tvm_qnn.passes.plan_layout import plan_layout
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.passes.select_kernels import select_kernels
from tvm_qnn.spec import Codes, QType, pack_stream

HOST = targets.host()
SHAPE = [1, 5, 6, 32]
BITS2, TERNARY = Codes(0, 3), Codes(-1, 1)


def conv(emit, x, out=32, x_codes=BITS2, **more):
    codes = np.random.default_rng(out).integers(-1, 2, [out, 3, 3, 32])
    return emit(
        build.conv2d(
            x, build.const(codes, "int8"), x_codes=x_codes, x_zero=1, w_codes=TERNARY, w_zero=[0],
            strides=[1, 1], padding=(1, 1, 1, 1), dilation=[1, 1], groups=1, **more,
        )
    )  # fmt: skip


def requantized(emit, acc, codes=BITS2, zero=1):
    return emit(build.requantize(acc, [0.125], [0.25], codes, zero, "half_even"))


def two_layers(emit, x):
    return requantized(emit, conv(emit, requantized(emit, conv(emit, x))))


def run(body, lowering="auto", shape=SHAPE, codes=BITS2):
    """Lower a module, run it and compare with its definitions; return the lowered module."""
    before = module(shape, body, codes.dtype)
    chosen = choose_kernels(before, HOST, lowering)
    lowered = to_kernels(chosen, HOST)
    machine = relax.VirtualMachine(build_executable(lowered.module, HOST.tvm()), tvm.cpu())
    rng = np.random.default_rng(0)
    x = codes.from_index(rng.integers(0, codes.count, shape)).astype(codes.dtype)
    got = machine["main"](tvm.runtime.tensor(x), *machine["prepare"]())
    found = [got] if hasattr(got, "numpy") else list(got)
    for a, b in zip(found, outputs(before, x), strict=True):
        assert a.numpy().dtype == b.dtype
        assert (a.numpy() == b).all()
    return chosen, lowered


def kernels(lowered):
    return [name for name, _, _ in lowered.kernels.values()]


def functions(lowered):
    """Return the names of the kernels that ``main`` calls, in order."""
    return [call.args[0].name_hint for _, call in calls(lowered.module) if len(call.args) > 1]


@pytest.mark.parametrize("name", ["reference", "dot", "bitserial"])
def test_a_family_that_is_asked_for_is_taken(name):
    chosen = select_kernels(module(SHAPE, two_layers, "uint8"), HOST, name)
    attrs = [attrs_of(call) for _, call in calls(chosen) if call.op.name == "qnn.conv2d"]
    assert [a["kernel"] for a in attrs] == [name, name]
    assert all(a["why"].startswith("asked for; ") for a in attrs)


def test_the_cheapest_family_is_taken():
    chosen = select_kernels(module(SHAPE, two_layers, "uint8"), HOST)
    why = [attrs_of(call)["why"] for _, call in calls(chosen) if call.op.name == "qnn.conv2d"]
    for text in why:
        ratios = [float(part.split()[1]) for part in text.split(", ")[1:]]
        assert len(ratios) >= 2
        assert min(ratios) >= 1
        assert ratios == sorted(ratios)


def test_an_unsupported_work_falls_back_to_another_family():
    chosen = select_kernels(
        module(SHAPE, lambda emit, x: conv(emit, x, x_codes=UINT8), "uint8"), HOST, "bitserial"
    )
    assert attrs_of(call_of(chosen, "qnn.conv2d"))["kernel"] in ("bitserial", "dot", "reference")


def test_planes_once_for_all_readers():
    def body(emit, x):
        return [conv(emit, x, 8), conv(emit, x, 16)]

    planned = plan_layout(select_kernels(module(SHAPE, body, "uint8"), HOST, "bitserial"))
    assert ops(planned) == ["qnn.pack", "qnn.conv2d", "qnn.conv2d"]
    attrs = [attrs_of(call) for _, call in calls(planned) if call.op.name == "qnn.conv2d"]
    assert [(a["x_layout"], a["channels"]) for a in attrs] == [("planes", 32)] * 2
    run(body, "bitserial")


@pytest.mark.parametrize("lowering", ["dot", "reference"])
def test_kernels_that_read_bytes_get_no_planes(lowering):
    before = select_kernels(module(SHAPE, two_layers, "uint8"), HOST, lowering)
    same(plan_layout(before), before)


def test_channels_that_fill_no_word_are_packed_inside_of_the_kernel():
    chosen, lowered = run(_narrow, "bitserial", [1, 4, 4, 20])
    assert "qnn.pack" not in ops(chosen)
    assert kernels(lowered) == ["qconv2d_w2a2_bitserial"]


def _narrow(emit, x):
    codes = np.random.default_rng(0).integers(-1, 2, [5, 3, 3, 20])
    acc = emit(
        build.conv2d(
            x, build.const(codes, "int8"), x_codes=BITS2, x_zero=0, w_codes=TERNARY, w_zero=[0],
            strides=[2, 1], padding=(1, 0, 0, 1), dilation=[1, 1], groups=1,
        )
    )  # fmt: skip
    return requantized(emit, acc)


@pytest.mark.parametrize("lowering", ["reference", "dot", "bitserial"])
def test_epilogue_and_pack_go_into_the_kernel(lowering):
    _, lowered = run(two_layers, lowering)
    found = functions(lowered)
    assert sum(f.startswith("qconv2d") for f in found) == 2
    assert sum(f.startswith("qnn_pack") for f in found) == (lowering == "bitserial")
    assert not [f for f in found if f.startswith("qnn_requantize")]
    if lowering == "bitserial":
        shapes = [list(map(int, c.ty.shape)) for _, c in calls(lowered.module)]
        assert [1, 5, 6, 2, 1] in shapes


def test_codes_that_others_read_are_packed_apart():
    def body(emit, x):
        codes = requantized(emit, conv(emit, x))
        pooled = build.max_pool2d(
            codes, [2, 2], codes=BITS2, strides=[1, 1], padding=(0, 0, 0, 0), dilation=[1, 1]
        )
        return [conv(emit, codes), emit(pooled)]

    _, lowered = run(body, "bitserial")
    assert sum(f.startswith("qnn_pack") for f in functions(lowered)) == 2


def test_an_accumulator_with_two_readers_is_stored():
    def body(emit, x):
        acc = conv(emit, x)
        return [requantized(emit, acc), requantized(emit, acc, INT8), acc]

    _, lowered = run(body)
    found = functions(lowered)
    assert sum(f.startswith("qconv2d") for f in found) == 1
    assert sum(f.startswith("qnn_requantize") for f in found) == 2


def test_thresholds_and_real_values_as_results():
    levels = np.sort(np.random.default_rng(0).integers(-40, 40, [32, 3]))

    def body(emit, x):
        acc = conv(emit, x)
        few = emit(build.threshold(acc, levels, np.arange(32) % 2, BITS2))
        return [few, emit(build.affine(conv(emit, few), [0.5], [1.0]))]

    _, lowered = run(body)
    assert not [f for f in functions(lowered) if f.startswith(("qnn_threshold", "qnn_affine"))]


def test_products_of_matrices_of_any_rank():
    rows = np.random.default_rng(0).integers(-1, 2, [5, 32])

    def body(emit, x):
        acc = emit(
            build.dense(
                x, build.const(rows, "int8"), x_codes=BITS2, x_zero=1, w_codes=TERNARY, w_zero=[0]
            )
        )
        return requantized(emit, acc, UINT8, 100)

    for shape in ([3, 32], [2, 3, 32]):
        for lowering in ("dot", "bitserial"):
            _, lowered = run(body, lowering, shape)
            assert kernels(lowered) == [f"qdense_w2a2_{lowering}"]


def test_weights_are_stored_as_a_dense_bit_stream():
    body = lambda emit, x: conv(emit, x, 8)  # noqa: E731
    before = module(SHAPE, body, "uint8")
    weights = call_of(before, "qnn.conv2d").args[1].value.numpy()
    lowered = lower(choose_kernels(before, HOST), HOST)
    assert lowered.prepared == 1
    assert lowered.weight_bytes == 8 * 9 * 32 * 2 // 8
    prepare = lowered.module["prepare"].body.blocks[0].bindings[0].value
    stored = prepare.args[1].fields[0].value.numpy()
    assert (stored == pack_stream(weights, TERNARY)).all()


def test_a_module_without_weights():
    def body(emit, x):
        return emit(build.dequantize(x, QType(BITS2, (0.5,))))

    _, lowered = run(body)
    assert lowered.prepared == 0
    assert lowered.weight_bytes == 0


def codebook(emit, x, groups=1):
    index = np.random.default_rng(3).integers(0, 3, [32, 3, 3, 32 // groups])
    table = build.const(np.array([[-0.7, 0.11, 0.93]]), "float32")
    return emit(
        make(
            "qnn.codebook_conv2d", [x, build.const(index, "uint8"), table],
            **code_attrs(BITS2, "x_"), x_zero=1, strides=[1, 1], padding=[1, 1, 1, 1],
            dilation=[1, 1], groups=groups,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", ["auto", "taps", "dot", "bitserial", "reference"])
def test_a_codebook_convolution_and_its_requantization_are_one_kernel(name):
    def body(emit, x):
        return requantized(emit, codebook(emit, requantized(emit, codebook(emit, x))))

    chosen, lowered = run(body, name)
    attrs = [attrs_of(call) for _, call in calls(chosen) if call.op.name == "qnn.codebook_conv2d"]
    assert name in ("auto", attrs[0]["kernel"])
    assert attrs[0]["why"].startswith("asked for; " if name != "auto" else "")
    assert "times that" in attrs[0]["why"]
    assert functions(lowered) == [f"qconv2d_m3a2_{attrs[0]['kernel']}"] * 2
    # Two bits a weight, whatever the kernel makes of them.
    assert lowered.weight_bytes == 2 * 32 * 9 * 32 * 2 // 8


def test_a_codebook_convolution_stays_float_where_others_read_its_sums():
    def body(emit, x):
        sums = codebook(emit, x, groups=2)
        scaled = make("qnn.affine", [sums, *(build.const([v], "float32") for v in (0.5, 1.0))])
        return [requantized(emit, sums), emit(scaled)]

    _, lowered = run(body)
    assert [name for name in functions(lowered) if "conv2d" in name] == ["qconv2d_m3a2_taps"]


def test_bit_planes_follow_the_codes_of_a_codebook_convolution():
    def body(emit, x):
        return requantized(emit, conv(emit, requantized(emit, codebook(emit, x))))

    _, lowered = run(body, "bitserial")
    assert functions(lowered)[0] == "qconv2d_m3a2_bitserial"
    assert functions(lowered)[-1] == "qconv2d_w2a2_bitserial"
