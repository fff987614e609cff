"""Kernels of memory networks for CUDA: every integer and every float equals ``spec``."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.memory_cases import Size, cases, codes, one
from tests.gpu.emulation import source_of_model
from tests.gpu.sequential import sequential
from tests.nn.memory_networks import VARIANTS, defined, memories, random_network, random_questions
from tests.schedules.memory_checks import compare
from tvm_qnn import spec, targets
from tvm_qnn._tvm import tvm
from tvm_qnn.gpu import emulator
from tvm_qnn.nn.qmann.export import to_onnx
from tvm_qnn.schedules.memory import place
from tvm_qnn.schedules.memory_kernel import build_memory, prepared_weights
from tvm_qnn.spec import FixedPoint
from tvm_qnn.verification import verify

SM80 = targets.get("cuda-sm80")
SIZES = [
    Size(1, 1, 1),
    Size(2, 2, 7),
    Size(2, 50, 64),
    Size(1, 51, 65),
    Size(1, 700, 30, words=2),
    Size(3, 17, 130, answers=67),
]
FORMATS = [FixedPoint(2, 5), FixedPoint(7, 0), FixedPoint(0, 7), FixedPoint(1, 1),
           FixedPoint(4, 7), FixedPoint(0, 15)]  # fmt: skip


def check(found, *, emulated=True):
    """Compile all kernels at once, run them without a GPU, and compare each with its definition."""
    built = {f"k{i}": build_memory(case.work, SM80, f"k{i}") for i, case in enumerate(found)}
    if emulated:
        with emulator.emulated(SM80) as device:
            module = tvm.compile(tvm.IRModule(built), device)
    else:
        plain = {name: sequential(func) for name, func in built.items()}
        module = tvm.compile(tvm.IRModule(plain), targets.host().tvm())
    compare(found, module)


def cuda_cases(seed, fmt, size):
    """The operators, without the tables that only x86 wants."""
    found = cases(np.random.default_rng(seed), fmt, size)
    return [c for c in found if not any(w.biased for a in c.work.arguments.values()
                                        for w in a.weights)]  # fmt: skip


@pytest.mark.parametrize("emulated", [True, False], ids=["threads", "sequential"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size, emulated):
    check(cuda_cases(size.slots, FORMATS[0], size), emulated=emulated)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_formats(fmt):
    check(cuda_cases(fmt.bits, fmt, Size(2, 18, 60)))


@settings(
    max_examples=4, deadline=None, phases=[Phase.generate], derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
def test_random_works(data):
    bits = data.draw(st.integers(2, 16))
    fmt = FixedPoint(integer := data.draw(st.integers(0, bits - 1)), bits - 1 - integer)
    bounds = (3, 70, 140, 9, 40, 40)
    size = Size(*(data.draw(st.integers(1, most)) for most in bounds))
    check(cuda_cases(data.draw(st.integers(0, 99)), fmt, size))


def test_a_large_memory_is_shared_by_all_blocks():
    """More slots than a block of threads has, and more scores than its memory holds."""
    rng, fmt, slots = np.random.default_rng(0), FixedPoint(2, 5), 20_000
    memory, key = codes(rng, fmt, 1, slots, 16), codes(rng, fmt, 1, 16)
    scores, valid = codes(rng, fmt, 1, slots), rng.random((1, slots)) < 0.9
    # A few slots stand out, or every share is 0.
    scores[0, 100:] = -fmt.limit
    shares = spec.fixed_softmax(scores, valid, fmt)
    assert shares.any()
    table = spec.fixed.softmax_table(fmt).astype(np.int32)
    read = spec.fixed_read(shares, memory, fmt)
    check(
        [
            one("hamming", fmt, [memory, key], spec.hamming_similarity(memory, key, fmt)),
            one("softmax", fmt, [scores, valid, table], shares),
            one("read", fmt, [shares, memory], read),
        ]
    )


@pytest.mark.parametrize("fmt", [FixedPoint(0, 1), FixedPoint(3, 9)], ids=str)
def test_prepared_weights_are_those_of_every_device(fmt):
    shapes = {0: (1, 1), 1: (17, 60), 2: (5, 64)}
    placed, size = place(shapes)
    rng, made = np.random.default_rng(0), []
    some = rng.integers(-fmt.limit, fmt.limit + 1, sum(a * b for a, b in shapes.values()))
    stream = tvm.runtime.tensor(spec.pack_stream(some.astype(fmt.dtype), fmt.codes))
    for target in (targets.host(), SM80):
        kernel = prepared_weights(placed, fmt, target)
        functions = tvm.IRModule({"prepare": kernel.prepare})
        if target is SM80:
            with emulator.emulated(target) as device:
                module = tvm.compile(functions, device)
        else:
            module = tvm.compile(functions, target.tvm())
        packed = tvm.runtime.tensor(np.ones((size,), kernel.packed_dtype))
        module["prepare"](stream, packed)
        made.append(packed.numpy())
    np.testing.assert_array_equal(*made)


def network(variant, batch, slots):
    """A network as a file, questions, and the defined logits."""
    rng = np.random.default_rng([len(variant), batch, slots])
    net = random_network(variant, rng)
    story, question = random_questions(rng, batch, slots)
    _, logits = defined(net, memories(net, story), spec.fixed_valid(story), question)
    return to_onnx(net, slots, 6, 4, batch), {"story": story, "question": question}, logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_are_exact(variant):
    model, feed, logits = network(variant, 2, 5)
    outcome = verify(model, feed, target=SM80)
    assert outcome.first_wrong is None
    assert all(layer.exact for layer in outcome.layers)
    assert (outcome.outputs["logits"] == logits).all()


@pytest.mark.parametrize(("slots", "launches"), [(50, 1), (900, 64)])
def test_a_small_network_is_one_launch(slots, launches):
    model, feed, logits = network("dot mq", 1, slots)
    source = source_of_model(model, SM80)
    kernels = [name for name in source.functions if name.startswith("qmemory_0")]
    assert len(kernels) == launches
    assert (verify(model, feed, target=SM80).outputs["logits"] == logits).all()
