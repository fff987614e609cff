"""Energy of an answer: the counts by hand, the published gains within 1 %."""

import pytest

from tvm_qnn.nn.qmann.energy import PUBLISHED_GAINS, Dimensions, gain, operations, picojoules

SMALL = Dimensions(inputs=5, embedding=4, slots=3, hops=2)
INPUTS = (30, 84, 85, 17, 90, 62, 94, 98, 34, 35, 37, 31, 37, 40, 26, 27, 21, 39, 37, 48)
"""Words and time words of the 20 tasks."""


@pytest.mark.parametrize("kind", PUBLISHED_GAINS)
def test_gains_are_the_published_ones_within_1_percent(kind):
    assert gain(kind, Dimensions()) == pytest.approx(PUBLISHED_GAINS[kind], rel=0.01)


@pytest.mark.parametrize("kind", PUBLISHED_GAINS)
def test_gains_over_the_twenty_tasks(kind):
    sizes = [Dimensions(inputs=inputs) for inputs in INPUTS]
    total = sum(picojoules("float", size) for size in sizes)
    reached = total / sum(picojoules(kind, size) for size in sizes)
    assert reached == pytest.approx(PUBLISHED_GAINS[kind], rel=0.01)


def test_counts_by_hand():
    # Embeddings of 3 slots for 2 hops and 2 tables and of the question, 4 x 5 each: 260 additions;
    # similarity and read 2 x 3 x 4 = 24 each; W_k 2 x 16 = 32, its sum 2 x 4; output 5 x 4 = 20.
    assert operations("float", SMALL) == {
        "fp32 add": 260 + 24 + 24 + 32 + 8 + 20,
        "fp32 multiply": 24 + 24 + 32 + 20,
    }
    expected = {"int8 add": 348, "fp32 add": 20, "fp32 multiply": 20}
    assert operations("mann8", SMALL) == {**expected, "int8 multiply": 80}
    assert operations("qmann8", SMALL) == {**expected, "int8 multiply": 56}
    assert operations("mann1", SMALL) == {**expected, "int8 multiply": 24}
    assert operations("qmann1", SMALL) == operations("mann1", SMALL)
    assert picojoules("mann1", SMALL) == pytest.approx(348 * 0.03 + 24 * 0.2 + 20 * (0.9 + 3.7))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="qmann4"):
        operations("qmann4", SMALL)
