"""fuse_memory and lower_fixed: which operators become one kernel, and that nothing changes."""

import numpy as np
import pytest

from tests.nn.memory_networks import VARIANTS, random_network, random_questions
from tvm_qnn import targets
from tvm_qnn._tvm import relax
from tvm_qnn.compiler import build_executable
from tvm_qnn.device_run import Executor
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import import_model
from tvm_qnn.nn.qmann.export import to_onnx, to_onnx_with_memory
from tvm_qnn.ops import attrs_of, fixed
from tvm_qnn.passes.fuse_memory import fuse_memory
from tvm_qnn.passes.pipeline import choose_kernels, to_integers, to_kernels
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.passes.select_kernels import select_kernels
from tvm_qnn.spec import FixedPoint

HOST = targets.host()
Q2_5, Q3_4 = FixedPoint(2, 5), FixedPoint(3, 4)


def module(body, *shapes):
    """A module of arguments ``x0``, ``x1``, ... of int8 codes (or as given)."""
    params = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder, *params))
        builder.emit_func_output(result)
    return builder.get()


def marks(mod):
    """The kernel, the place and the outside mark of every marked operator, in order."""
    found = [attrs_of(call) for _, call in calls(fuse_memory(mod))]
    return [(a["kernel"], a["part"], a["parts"], a["outside"]) for a in found if "kernel" in a]


def run(mod, arrays, tmp_path, name):
    """Lower, build and run a module whose kernels are chosen."""
    lowered = to_kernels(mod, HOST)
    library = tmp_path / f"{name}.so"
    build_executable(lowered.module, HOST.tvm()).export_library(str(library))
    executor = Executor(library, [(a.shape, str(a.dtype)) for a in arrays.values()])
    for buffer, array in zip(executor.inputs, arrays.values(), strict=True):
        buffer[...] = array
    return executor.run(), lowered


KEY, MEMORY = ((2, 6), "int8"), ((2, 9, 6), "int8")


def test_operators_behind_each_other_become_one_kernel():
    def body(builder, key, memory):
        score = builder.emit(fixed.hamming(memory, key, Q2_5))
        coarse = builder.emit(fixed.convert(score, Q2_5, Q3_4))
        return relax.Tuple([score, coarse])

    assert marks(module(body, KEY, MEMORY)) == [("qmemory_0", 0, 2, 1), ("qmemory_0", 1, 2, 1)]


def test_what_only_members_read_does_not_leave_the_kernel():
    def body(builder, key, memory):
        score = builder.emit(fixed.hamming(memory, key, Q2_5))
        return builder.emit(fixed.convert(score, Q2_5, Q3_4))

    assert [outside for *_, outside in marks(module(body, KEY, MEMORY))] == [0, 1]


def test_a_single_operator_is_left_alone():
    mod = module(lambda builder, key: builder.emit(fixed.add(key, key, Q2_5)), KEY)
    assert marks(mod) == []


def test_another_operator_ends_a_run():
    def body(builder, key):
        first = builder.emit(fixed.add(key, key, Q2_5))
        second = builder.emit(fixed.add(first, key, Q2_5))
        moved = builder.emit(relax.op.reshape(second, [2, 6]))
        third = builder.emit(fixed.add(moved, first, Q2_5))
        return builder.emit(fixed.convert(third, Q2_5, Q3_4))

    assert marks(module(body, KEY)) == [
        ("qmemory_0", 0, 2, 1),
        ("qmemory_0", 1, 2, 1),
        ("qmemory_1", 0, 2, 0),
        ("qmemory_1", 1, 2, 1),
    ]


def test_kernels_with_several_results_and_several_runs(tmp_path):
    def body(builder, key, memory):
        score = builder.emit(fixed.similarity(memory, key, Q2_5))
        p = builder.emit(fixed.convert(score, Q2_5, Q3_4))
        moved = builder.emit(relax.op.reshape(p, [2, 9]))
        twice = builder.emit(fixed.add(moved, score, Q3_4))
        read = builder.emit(fixed.read(twice, memory, Q3_4))
        return relax.Tuple([read, p, score])

    mod = module(body, KEY, MEMORY)
    rng = np.random.default_rng(0)
    arrays = {
        "x0": rng.integers(-127, 128, (2, 6)).astype(np.int8),
        "x1": rng.integers(-127, 128, (2, 9, 6)).astype(np.int8),
    }
    found, lowered = run(choose_kernels(mod, HOST), arrays, tmp_path, "parts")
    assert sum(name.startswith("qmemory") for name in _functions(lowered.module)) == 2
    for result, expected in zip(found, evaluate(mod, arrays)[""], strict=True):
        np.testing.assert_array_equal(result, expected)


def _functions(mod):
    return [gv.name_hint for gv in mod.functions]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_is_one_kernel_and_computes_its_definition(variant, tmp_path):
    rng = np.random.default_rng(1)
    net = random_network(variant, rng)
    imported = import_model(to_onnx(net, slots=9, sentence=6, question=4, batch=2))
    mod = to_integers(imported.module).module
    arrays = dict(zip(("story", "question"), random_questions(rng, 2, 9), strict=True))
    expected = evaluate(mod, arrays)[""][0]
    fused, lowered = run(choose_kernels(mod, HOST), arrays, tmp_path, "fused")
    assert [n for n in _functions(lowered.module) if n not in ("main", "prepare")] == [
        "qmemory_0",
        "qmemory_weights",
    ]
    np.testing.assert_array_equal(fused[0], expected)
    if variant in ("dot mq", "hamming binary mq"):
        single, _ = run(select_kernels(mod, HOST), arrays, tmp_path, "single")
        np.testing.assert_array_equal(single[0], expected)


def test_one_slot_and_weights_that_are_computed(tmp_path):
    def body(builder, key, memory, used):
        coarse = builder.emit(fixed.convert(memory, Q2_5, Q3_4))
        score = builder.emit(fixed.hamming(coarse, key, Q3_4))
        p = builder.emit(fixed.softmax(score, used, Q3_4))
        read = builder.emit(fixed.read(p, coarse, Q3_4))
        return builder.emit(fixed.dense(builder.emit(fixed.add(key, read, Q3_4)), read, Q3_4))

    mod = module(body, ((1, 60), "int8"), ((1, 1, 60), "int8"), ((1, 1), "bool"))
    rng = np.random.default_rng(5)
    arrays = {
        "x0": rng.integers(-127, 128, (1, 60)).astype(np.int8),
        "x1": rng.integers(-127, 128, (1, 1, 60)).astype(np.int8),
        "x2": np.ones((1, 1), bool),
    }
    found, _ = run(choose_kernels(mod, HOST), arrays, tmp_path, "one")
    np.testing.assert_array_equal(found[0], evaluate(mod, arrays)[""][0])


def test_weights_are_stored_once_as_a_dense_stream():
    net = random_network("5 bits", np.random.default_rng(2))
    imported = import_model(to_onnx(net, slots=9, sentence=6, question=4))
    lowered = to_kernels(choose_kernels(to_integers(imported.module).module, HOST), HOST)
    tables = 3 * 2 + 1  # W_a and W_r in the format of each hop, W_q in that of the first
    bits = 5 * 60 * (tables * 19 + 3 * 60)
    assert lowered.weight_bytes == -(-bits // 8)


def test_memories_as_inputs_answer_in_one_call(tmp_path):
    rng = np.random.default_rng(3)
    net = random_network("hamming", rng)
    slots = 20_000
    imported = import_model(to_onnx_with_memory(net, slots, question=4))
    mod = to_integers(imported.module).module
    arrays = {
        info.name: rng.integers(-127, 128, info.shape).astype(info.dtype)
        for info in imported.inputs
    }
    arrays["used"] = (rng.random((1, slots)) < 0.9).astype(np.uint8)
    arrays["question"] = rng.integers(0, 19, (1, 4)).astype(np.int32)
    found, _ = run(choose_kernels(mod, HOST), arrays, tmp_path, "large")
    np.testing.assert_array_equal(found[0], evaluate(mod, arrays)[""][0])


def test_weights_that_are_no_constants(tmp_path):
    def body(builder, table, words, w, answers):
        key = builder.emit(fixed.bag(table, words, Q2_5))
        key = builder.emit(fixed.dense(w, key, Q2_5))
        return builder.emit(fixed.output(answers, key, Q2_5))

    shapes = [((9, 6), "int8"), ((2, 3), "int32"), ((6, 6), "int8"), ((5, 6), "float32")]
    mod = module(body, *shapes)
    rng = np.random.default_rng(4)
    arrays = {
        f"x{i}": rng.integers(0, 9, shape).astype(dtype) for i, (shape, dtype) in enumerate(shapes)
    }
    found, _ = run(choose_kernels(mod, HOST), arrays, tmp_path, "given")
    np.testing.assert_array_equal(found[0], evaluate(mod, arrays)[""][0])
