"""Damaged models: whatever the bytes are, only a QnnError of one line comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_evaluate import build, compare, node, whole
from onnx_mutations import MODELS, mutated

from tvm_qnn._tvm import relax
from tvm_qnn.errors import QnnError
from tvm_qnn.frontend import import_model

INPUTS = [whole([1, 3, 6, 6]), whole([2, 3]), np.arange(6, dtype="uint8").reshape(2, 3),
          whole([1, 3, 6, 6], 0, 200).astype("uint8")]  # fmt: skip


def outcome(path) -> bool:
    """Import a file; True if it was accepted. Any other exception than QnnError fails the test."""
    message = None
    try:
        imported = import_model(path)
    except QnnError as error:
        message = str(error)
    if message is None:
        relax.analysis.well_formed(imported.module)
        return True
    assert "\n" not in message
    assert path.name in message
    return False


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_the_models_to_damage_are_valid(number: int) -> None:
    # Means and softmax round in another order; the last model gives codes, see the QOperator tests.
    tolerance = 1 if number == 3 else 1e-5
    compare(MODELS[number], {"x": INPUTS[number]}, tolerance=tolerance)


@pytest.mark.parametrize("start", range(0, 2000, 500))
def test_damaged_models(tmp_path, start: int) -> None:
    path = tmp_path / "damaged.onnx"
    accepted = 0
    for seed in range(start, start + 500):
        path.write_bytes(mutated(seed))
        accepted += outcome(path)
    # Some damage is harmless; if none or all were, the mutations would test nothing.
    assert 0 < accepted < 250


def test_every_truncation_of_a_model_is_refused(tmp_path) -> None:
    path = tmp_path / "short.onnx"
    data = MODELS[2].SerializeToString()
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert not outcome(path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "any.onnx"
    path.write_bytes(data)
    assert not outcome(path)


@pytest.mark.parametrize("dims", [[2**40], [2**62, 4], [2**31], [65536, 65536], [-1]])
def test_huge_dimensions_are_refused_and_not_allocated(dims: list[int]) -> None:
    with pytest.raises(QnnError, match="'x'"):
        import_model(build([node("Relu", "x", "y")], {"x": dims}, ["y"]))
    model = build([node("Add", "x w", "y")], {"x": [1]}, ["y"], {"w": np.float32(0)})
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(QnnError, match="'w'"):
        import_model(model)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Expand", "x big", "y")],
        [node("ConstantOfShape", "big", "c"), node("Add", "x c", "y")],
        [node("Pad", "x big", "y")],
        [node("Range", "zero far one", "r"), node("Reshape", "x r", "y")],
        [node("Tile", "x big", "y")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_constants_that_ask_for_huge_tensors(nodes) -> None:
    constants = {
        "big": np.array([2**40, 2**40]), "zero": np.array(0), "far": np.array(2**50),
        "one": np.array(1),
    }  # fmt: skip
    with pytest.raises(QnnError):
        import_model(build(nodes, {"x": [1]}, ["y"], constants))
