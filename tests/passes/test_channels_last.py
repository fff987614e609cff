"""channels_last: permutations between integer operators vanish, and nothing else changes."""

import numpy as np
import pytest

from tests.passes.relax_modules import UINT8, floats, module, ops, outputs, quantized, same, weights
from tvm_qnn._tvm import relax
from tvm_qnn.ops import build
from tvm_qnn.passes.channels_last import channels_last
from tvm_qnn.passes.recognize import recognize
from tvm_qnn.spec import QType

SHAPE = [2, 3, 4, 5]
ACTIVATIONS = QType(UINT8, (0.5,), (10,))
RNG = np.random.default_rng(0)


def conv(emit, x, out=3, size=1):
    w = emit(weights(RNG.integers(-3, 4, [out, 3, size, size])))
    return emit(relax.op.nn.conv2d(quantized(emit, x, ACTIVATIONS), w))


def run(body, shape=SHAPE):
    before = recognize(module(shape, body), [])
    after = channels_last(before)
    x = (np.random.default_rng(1).integers(-40, 40, shape) * 0.25).astype(np.float32)
    for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
        assert a.shape == b.shape
        assert (a == b).all()
    return ops(after).count("permute_dims")


def permuted(x, axes):
    return relax.op.permute_dims(x, axes)


def test_a_pair_of_permutations_vanishes():
    def before(emit, x):
        y = emit(permuted(emit(relax.op.nn.relu(x)), [0, 3, 1, 2]))
        return emit(relax.op.nn.relu(emit(permuted(y, [0, 2, 3, 1]))))

    def expected(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.nn.relu(x))))

    same(channels_last(module(SHAPE, before)), module(SHAPE, expected))


def test_permutations_of_others_stay():
    def before(emit, x):
        y = emit(permuted(x, [0, 2, 1, 3]))
        return emit(permuted(emit(relax.op.nn.relu(y)), [0, 2, 3, 1]))

    mod = module(SHAPE, before)
    same(channels_last(mod), mod)


def test_an_elementwise_chain_stays_between_two_convolutions():
    def body(emit, x):
        y = conv(emit, x)
        y = emit(relax.op.add(y, floats(np.reshape([1, 2, 3], [1, 3, 1, 1]))))
        y = emit(relax.op.multiply(floats(np.reshape([1, 2, 3], [3, 1, 1])), y))
        y = emit(relax.op.add(y, floats([0.0, 1, 2, 3, 4])))
        y = emit(relax.op.multiply(y, floats(RNG.integers(0, 3, SHAPE))))
        y = emit(relax.op.clip(emit(relax.op.nn.relu(y)), 0.5, 20))
        return conv(emit, y)

    assert run(body) == 2


def test_quantizers_per_channel_turn_their_axis():
    def body(emit, x):
        qtype = QType(UINT8, (0.5, 1.0, 2.0), (1, 2, 3), axis=1)
        y = emit(relax.op.nn.relu(quantized(emit, conv(emit, x), qtype)))
        return conv(emit, y)

    assert run(body) == 2


def test_sums_of_images_of_both_kinds():
    def body(emit, x):
        plain = quantized(emit, emit(relax.op.nn.relu(x)), ACTIVATIONS)
        y = emit(relax.op.add(conv(emit, x), conv(emit, x)))
        y = emit(relax.op.add(y, plain))
        return conv(emit, emit(relax.op.add(emit(relax.op.sigmoid(x)), y)))

    run(body)


def test_a_broadcast_image_of_one_pixel():
    def body(emit, x):
        pooled = emit(relax.op.mean(quantized(emit, x, ACTIVATIONS), [2, 3], keepdims=True))
        return emit(relax.op.multiply(conv(emit, x), emit(relax.op.sigmoid(pooled))))

    run(body)


@pytest.mark.parametrize("rank", [1, 2])
def test_what_needs_the_order_of_channels_gets_it(rank):
    def body(emit, x):
        y = conv(emit, x)
        return [emit(relax.op.reshape(y, [120] if rank == 1 else [2, 60])), y]

    assert run(body) == 2


def test_an_image_of_one_pixel_is_reshaped():
    def body(emit, x):
        y = emit(relax.op.mean(quantized(emit, conv(emit, x), ACTIVATIONS), [2, 3], keepdims=True))
        y = emit(relax.op.reshape(y, [2, 3]))
        return emit(
            relax.op.matmul(quantized(emit, y, ACTIVATIONS), emit(weights(np.eye(3, dtype=int))))
        )

    assert run(body) == 1


def test_codes_that_others_read_in_both_orders():
    def body(emit, x):
        codes = emit(build.quantize(conv(emit, x), ACTIVATIONS))
        y = emit(build.dequantize(codes, ACTIVATIONS))
        return [codes, conv(emit, y), emit(relax.op.sigmoid(y))]

    run(body)
