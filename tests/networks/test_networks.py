"""Whole networks, from the file to the outputs, on this machine and on emulated boards."""

from functools import cache

import numpy as np
import onnxruntime
import pytest

import tvm_qnn
from tests.networks.models import ALL
from tvm_qnn import targets
from tvm_qnn.emulation import run_emulated
from tvm_qnn.verification import verify


@cache
def case(name):
    """Return a model, an input, and what ONNX Runtime makes of it without any optimization."""
    graph = ALL[name]()
    model, x = graph.model(graph.out), graph.input()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return model, x, session.run(None, {"x": x})[0]


def run(model, x, target, **options):
    return next(iter(tvm_qnn.compile(model, target, **options).run({"x": x}).values()))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lowering", ["auto", "bitserial", "reference"])
def test_equals_onnxruntime(name, lowering):
    model, x, expected = case(name)
    got = run(model, x, "host", lowering=lowering)
    assert np.unique(expected).size > 1
    assert got.shape == expected.shape
    assert (got == expected).all()


@pytest.mark.parametrize("name", ALL)
def test_equals_onnxruntime_on_avx2(name):
    if not targets.reachable(targets.get("x86-avx2")).startswith("native"):
        pytest.skip(targets.reachable(targets.get("x86-avx2")))
    model, x, expected = case(name)
    assert (run(model, x, "x86-avx2") == expected).all()


@pytest.mark.parametrize("name", ALL)
def test_every_operator_equals_its_definition(name):
    model, x, expected = case(name)
    outcome = verify(model, {"x": x})
    assert outcome.first_wrong is None
    assert len(outcome.layers) > 3
    assert (next(iter(outcome.outputs.values())) == expected).all()


@pytest.mark.parametrize("name", sorted(set(ALL) - {"binary"}))
def test_nothing_stays_float(name):
    inspection = tvm_qnn.inspect(case(name)[0])
    assert inspection.refusals == ()
    assert not [row for row in inspection.rows if row.kernel == "float"]


def test_float_operators_are_named():
    inspection = tvm_qnn.inspect(case("binary")[0])
    assert [(r.node, r.reason.split()[0]) for r in inspection.refusals] == [
        ("mul2", "multiply"),
        ("clip5", "clip"),
    ]
    assert all(r.remedy for r in inspection.refusals)
    assert [row.name for row in inspection.rows if row.kernel == "float"] == ["mul2", "clip5"]


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["rpi3", "rpi4", "rpi5"])
@pytest.mark.parametrize("name", ALL)
def test_equals_onnxruntime_on_emulated_board(name, target, tmp_path):
    model, x, expected = case(name)
    bundle = tvm_qnn.compile(model, target, tmp_path / "bundle", bundle=True).path
    np.savez(tmp_path / "in.npz", x=x)
    outputs = run_emulated(bundle, targets.get(target).qemu_cpu, tmp_path / "in.npz")
    (got,) = outputs.values()
    assert (got == expected).all()


def test_manifest_tells_how_operators_are_quantized():
    records = tvm_qnn.compile(case("binary")[0]).manifest.quantization
    bipolar = {"bits": 1, "lo": -1, "hi": 1, "step": 2}
    first = next(r for r in records if "weights" in r)
    assert first["activations"] == {**bipolar, "zero": 0}
    assert first["weights"] == {**bipolar, "zero": [0]}
    assert {"result": {"bits": 2, "lo": -3, "hi": 3, "step": 2}}.items() <= records[4].items()
    assert [r["operator"] for r in records if "float" in r] == ["mul2", "clip5"]


@pytest.mark.parametrize("name", ["plain", "mobile", "binary"])
@pytest.mark.parametrize("target", ["host", "x86-avx2"])
def test_values_that_are_no_numbers_are_quantized_as_defined(name, target):
    if not targets.reachable(targets.get(target)).startswith("native"):
        pytest.skip(targets.reachable(targets.get(target)))
    model, x, _ = case(name)
    x = x.copy()
    x.reshape(-1)[:6] = np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45
    assert verify(model, {"x": x}, target).first_wrong is None


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["rpi3", "rpi4", "rpi5"])
def test_every_operator_equals_its_definition_on_emulated_boards(target):
    model, x, expected = case("residual")
    outcome = verify(model, {"x": np.concatenate([x, x])}, target)
    assert outcome.first_wrong is None
    assert len(outcome.layers) > 3
    assert (next(iter(outcome.outputs.values()))[:2] == expected).all()
