"""The first operator that differs is found, and the input shows it."""

import numpy as np
import pytest

from tvm_qnn import targets
from tvm_qnn.compare import diff
from tvm_qnn.errors import InputError, TargetError
from tvm_qnn.targets.x86 import AVX2
from tvm_qnn.verification import verify


def images(inputs):
    with np.load(inputs) as stored:
        return dict(stored)


def test_targets_with_other_kernels_and_layouts_agree(network, inputs):
    if not targets.reachable(AVX2).startswith("native"):
        pytest.skip("this processor has no AVX2")
    found = diff(network, ("host", AVX2), images(inputs))
    assert found.first is None
    assert found.batches == 8
    assert found.operators >= 5


@pytest.mark.emulated
def test_a_board_agrees(network, inputs):
    found = diff(network, ("host", "rpi4"), images(inputs), limit=1)
    assert (found.first, found.batches) == (None, 1)


def test_a_wrong_kernel_is_found_with_input_that_shows_it(network, inputs, crooked):
    found = diff(network, ("host", crooked), images(inputs), lowering="reference")
    first = found.first
    # The second convolution is wrong; what is behind it differs, too.
    wrong = verify(network, images(inputs), crooked, lowering="reference").first_wrong
    assert first.name == wrong.name
    assert 0 < first.differing <= first.elements == 32 * 4 * 4
    again = diff(network, (crooked, "host"), first.inputs, lowering="reference").first
    assert (again.name, again.where) == (first.name, first.where)
    assert again.values == first.values[::-1]
    assert first.values[0] != first.values[1]
    assert diff(network, (crooked, crooked), first.inputs, lowering="reference").first is None


def test_the_first_batch_that_differs_is_given(network, inputs, crooked):
    arrays = images(inputs)
    found = diff(network, ("host", crooked), arrays, lowering="reference")
    number = found.batches - 1
    assert (found.first.inputs["x"] == arrays["x"][number : number + 1]).all()


def test_float_has_nothing_to_compare(network):
    with pytest.raises(TargetError, match="no integers to compare"):
        diff(network, ("host", "host"), lowering="float")


def test_inputs_must_fit(network):
    with pytest.raises(InputError, match="'x' is missing"):
        diff(network, ("host", "host"), {"y": np.zeros(3)})
