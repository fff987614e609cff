"""A whole comparison: every figure has its kind, and adds up."""

import numpy as np
import pytest

import tvm_qnn
from tvm_qnn.compare import compare, emulate
from tvm_qnn.compare.rows import EMULATED, ESTIMATED, HERE, TABLE
from tvm_qnn.errors import InputError, QnnError, TargetError
from tvm_qnn.targets.arm import RPI4

# One process makes the report that these tests look at.
pytestmark = pytest.mark.xdist_group("compare")


def test_all_variants_are_there(variants):
    assert list(variants) == [
        ("host", "auto"), ("host", "float"), ("rpi4", "auto"), ("rpi4", "float"),
        ("host", "onnxruntime"),
    ]  # fmt: skip


def test_what_runs_here_is_measured_in_rounds(variants):
    for key in (("host", "auto"), ("host", "float"), ("host", "onnxruntime")):
        latency = variants[key].latency
        assert (latency.kind, latency.unit) == (HERE, "seconds")
        assert latency.rounds >= 5
        assert 0 < latency.p10 <= latency.median <= latency.p90
    assert variants["host", "auto"].ratio.against == "network.onnx on host, onnxruntime"
    assert variants["host", "onnxruntime"].ratio is None


def test_boards_that_are_not_here_get_cycles(variants):
    kind = TABLE if emulate.missing(RPI4) else ESTIMATED
    variant = variants["rpi4", "auto"]
    assert (variant.latency.kind, variant.latency.unit) == (kind, "cycles")
    assert variant.latency.rounds == 0
    costs = [o.cost for o in variant.operators if o.cost is not None]
    assert {c.kind for c in costs} == {kind}
    assert variant.latency.median == sum(c.median for c in costs)
    assert variant.ratio is None


def test_without_the_tools_the_cost_table_serves_and_says_so(network, monkeypatch):
    monkeypatch.setattr(emulate.programs, "qemu", lambda: None)
    found = compare([network], ("rpi4",), lowerings=("auto", "float"), limit=0)
    integers, floats = found.runs[0].variants
    assert integers.latency.kind == TABLE
    assert integers.parts.startswith("no estimate: qemu-aarch64 is not installed")
    assert "not known: " in integers.parts
    inspection = tvm_qnn.inspect(network, "rpi4")
    rows = {row.name: row.why.split()[0] for row in inspection.rows if row.macs}
    assert {o.name: f"{o.cost.median:.3g}" for o in integers.operators if o.macs} == rows
    # Nothing is left of a sum without its convolutions.
    assert floats.latency is None
    assert all(o.cost is None for o in floats.operators)


def test_programs_compute_what_is_defined(variants):
    check = variants["host", "auto"].check
    assert (check.kind, check.elements) == (HERE, 10)
    assert check.largest < 1e-6
    if emulate.missing(RPI4) is None:
        assert variants["rpi4", "auto"].check.kind == EMULATED
        assert variants["rpi4", "auto"].check.largest < 1e-6


@pytest.mark.parametrize("target", ["host", "rpi4"])
@pytest.mark.parametrize("lowering", ["auto", "float"])
def test_kernels_are_those_that_inspect_shows(network, variants, target, lowering):
    variant = variants[target, lowering]
    inspection = tvm_qnn.inspect(network, target, lowering=lowering)
    assert variant.macs == inspection.macs == sum(o.macs for o in variant.operators)
    assert variant.weight_bytes == inspection.weight_bytes
    rows = {row.name: row for row in inspection.rows if row.macs}
    found = {o.name: o for o in variant.operators if o.macs}
    assert list(found) == list(rows)
    if lowering == "auto":
        assert {n: o.kernel for n, o in found.items()} == {n: r.kernel for n, r in rows.items()}
        assert sum(o.weight_bytes for o in variant.operators) == inspection.weight_bytes
    assert variant.refusals == tuple(map(str, inspection.refusals))


def test_every_kernel_that_ran_here_has_a_cost_and_a_roof(variants):
    for operator in variants["host", "auto"].operators:
        assert operator.cost.kind == HERE
        assert (operator.roof is not None) == (operator.macs > 0)
        if operator.roof is not None:
            assert operator.roof.bound in ("compute", "memory")
            assert operator.roof.intensity == operator.macs / operator.moved_bytes
            assert operator.roof.share > 0


def test_sizes_are_counted(network, variants, tmp_path):
    artifact = tvm_qnn.compile(network, "rpi4", tmp_path / "a")
    sizes = [file.stat().st_size for file in artifact.path.iterdir()]
    assert variants["rpi4", "auto"].artifact_bytes == sum(sizes)
    assert variants["host", "onnxruntime"].artifact_bytes == network.stat().st_size
    assert variants["host", "auto"].planned_bytes > variants["host", "auto"].weight_bytes
    assert variants["host", "auto"].weight_bits == 2
    assert variants["host", "float"].weight_bits == 32


def test_the_machine_is_described(report):
    machine = report.runs[0].machines["this machine"]
    assert list(report.runs[0].machines) == ["this machine"]
    assert machine.versions["tvm-qnn"] == tvm_qnn.__version__
    assert machine.bandwidth > 0
    assert machine.rates["dot"] > 0


def test_labels_give_accuracy(network, inputs, tmp_path):
    program = tvm_qnn.compile(network).program
    with np.load(inputs) as stored:
        images = stored["x"]
    scores = np.concatenate([program.run({"x": x[None]})[program.outputs[0].name] for x in images])
    labels = scores.argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % 10
    np.save(tmp_path / "labels.npy", labels)
    found = compare([network], inputs=inputs, labels=tmp_path / "labels.npy", limit=0)
    accuracy = found.runs[0].variants[0].accuracy
    assert (accuracy.value, accuracy.samples, accuracy.kind) == (0.75, 8, HERE)


def test_the_zoo_knows_its_accuracy():
    found = compare(["zoo:qmann-1"], ("rpi4",), limit=0).runs[0].variants[0]
    assert found.model == "zoo:qmann-1"
    assert (found.accuracy.value, found.accuracy.samples) == (0.965, 1000)
    assert found.accuracy.kind == "recorded in the zoo"
    (kernel,) = found.operators
    assert kernel.macs == found.macs


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"baseline": "tflite"}, InputError, "onnxruntime is the only one"),
        ({"targets": ("gameboy",)}, TargetError, "choose one of host"),
        ({"lowerings": ("fast",)}, TargetError, "choose one of auto"),
        ({"devices": {"rpi4": "rpc://127.0.0.1:1/rpi4"}}, TargetError, "none of the targets"),
        ({"labels": "labels.npy"}, InputError, "labels need the inputs"),
        ({"models": ()}, InputError, "at least one model"),
        ({"inputs": "missing.npz"}, InputError, "no such file"),
    ],
)
def test_what_cannot_work_is_one_line(network, options, error, words):
    models = options.pop("models", [network])
    with pytest.raises(error, match=words) as caught:
        compare(models, options.pop("targets", ("host",)), limit=0, **options)
    assert isinstance(caught.value, QnnError)
    assert "\n" not in str(caught.value)
