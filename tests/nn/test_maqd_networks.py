"""VGG and residual networks: from PyTorch to ONNX Runtime and to integers, label by label."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
onnx = pytest.importorskip("onnx", reason="needs tvm-qnn[onnx]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

import tvm_qnn  # noqa: E402
from tvm_qnn import targets  # noqa: E402
from tvm_qnn._tvm import tvm  # noqa: E402
from tvm_qnn.compiler import read  # noqa: E402
from tvm_qnn.emulation import run_emulated  # noqa: E402
from tvm_qnn.evaluate import evaluate_call  # noqa: E402
from tvm_qnn.nn import check, export  # noqa: E402
from tvm_qnn.nn.maqd.check import accumulators, rounding_margin  # noqa: E402
from tvm_qnn.nn.maqd.networks import ResNetConfig, VggConfig  # noqa: E402
from tvm_qnn.nn.networks import build  # noqa: E402
from tvm_qnn.nn.train import logits  # noqa: E402
from tvm_qnn.ops import is_op  # noqa: E402
from tvm_qnn.passes.pipeline import choose_kernels, to_integers, to_kernels  # noqa: E402
from tvm_qnn.passes.rewrite import calls, constant  # noqa: E402

VGG = VggConfig(image_size=12, channels=(8, 9, 33), pools=(0, 2), classes=5)
RESNET = ResNetConfig(image_size=9, stem=5, stages=(8, 12), blocks=2, classes=4)
WORDS = VggConfig(image_size=16, channels=(32, 64, 40), pools=(0, 2), classes=4)
NETWORKS = {
    "vgg": VGG,
    "vgg-few-states": VggConfig(
        image_size=10,
        image_channels=3,
        channels=(8, 16),
        pools=(1,),
        classes=4,
        activation_states=2,
    ),
    "vgg-many-states": VggConfig(
        image_size=8,
        image_channels=3,
        channels=(8, 8),
        pools=(),
        classes=4,
        weight_states=15,
        activation_states=16,
        first_states=31,
        last_states=7,
    ),
    "vgg-batch": VggConfig(
        image_size=10, image_channels=3, channels=(8, 16), pools=(1,), classes=4, norm="batch"
    ),
    "resnet": RESNET,
    "resnet-few-states": ResNetConfig(
        image_size=8,
        image_channels=3,
        stem=8,
        stages=(8,),
        blocks=3,
        classes=4,
        weight_states=2,
        activation_states=2,
    ),
}


def lively(cfg, seed=0):
    """A network whose statistics and affine maps differ from channel to channel."""
    net = build(cfg, seed).train()
    shape = (32, cfg.image_channels, cfg.image_size, cfg.image_size)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("gain", "norm.weight")):
                parameter.uniform_(0.5, 1.5)
                parameter[::5] *= -1
            elif name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
        for _ in range(40):
            net(torch.rand(shape))
        net.eval()
        # No class wins everywhere.
        net.head.norm.bias -= net(torch.rand(shape)).mean(0)
    return net


def random_images(cfg, count, seed=0):
    shape = (count, cfg.image_channels, cfg.image_size, cfg.image_size)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def scaled(images):
    return images.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("name", NETWORKS)
def test_runtime_and_compiled_labels_equal_pytorch(tmp_path, name):
    net = lively(NETWORKS[name])
    path, images = tmp_path / "net.onnx", random_images(net.cfg, 64)
    export.save(export.to_onnx(net, batch=16), path)
    agreement = check.compare(net, path, images)
    assert agreement.different == (), agreement
    assert len(np.unique(agreement.runtime_labels)) > 1
    program = tvm_qnn.compile(path, "host").program
    got = [
        program.run({"image": x})["logits"]
        for x in scaled(images).reshape(4, 16, *images.shape[1:])
    ]
    assert np.concatenate(got).argmax(1).tolist() == logits(net, images).argmax(1).tolist()


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_stays_float(tmp_path, name):
    path = tmp_path / "net.onnx"
    export.save(export.to_onnx(lively(NETWORKS[name])), path)
    inspection = tvm_qnn.inspect(path)
    assert inspection.refusals == ()
    assert not [row for row in inspection.rows if row.kernel == "float"]


def integer_program(net, path):
    export.save(export.to_onnx(net), path)
    return to_integers(read(path).module).module


@pytest.mark.parametrize("name", NETWORKS)
def test_every_accumulator_of_every_channel_becomes_the_code_of_the_definition(tmp_path, name):
    net = lively(NETWORKS[name])
    compiled = {
        name.removesuffix("_narrow"): call
        for name, call in calls(integer_program(net, tmp_path / "net.onnx"))
    }
    assert rounding_margin(net) > 1e-6
    for item in accumulators(net):
        call = compiled[f"{item.name}_quantize"]
        assert call.op.name in ("qnn.threshold", "qnn.requantize")
        if item.quantizer.states <= 4 and "vgg" in name:
            assert call.op.name == "qnn.threshold"
        acc = np.arange(item.low.min(), item.high.max() + 1)[:, None].clip(item.low, item.high)
        parameters = [constant(argument) for argument in call.args[1:]]
        got = evaluate_call(call, [acc[None, None].astype(np.int32), *parameters])
        z = torch.from_numpy(acc.T[None, :, :, None].astype(np.float32) * np.float32(item.unit))
        with torch.no_grad():
            expected = item.quantizer.codes(item.norm(z))[0, :, :, 0].T
        assert (got[0, 0] == expected.numpy()).all()
        assert len(np.unique(got)) > 1


def fields(node):
    """Everything below a node of TIR but types, source spans and the buffers it names."""
    kind, names = type(node).__tvm_ffi_type_info__, []
    while kind is not None:
        names += [field.name for field in kind.fields]
        kind = kind.parent_type_info
    return [getattr(node, name) for name in names if name not in ("ty", "span", "buffer")]


def walk(root, into_loads):
    """All nodes of TIR below ``root``; addresses of loads only with ``into_loads``."""
    todo, found = [root], []
    while todo:
        node = todo.pop()
        if isinstance(node, (str, tvm.ir.Op)) or node is None:
            continue
        if isinstance(node, (list, tuple)) or type(node).__name__ == "Array":
            todo += list(node)
        elif hasattr(type(node), "__tvm_ffi_type_info__"):
            found.append(node)
            if into_loads or type(node).__name__ != "TensorLoad":
                todo += fields(node)
    return found


def data_products(func):
    """Multiplications and divisions of data in a kernel: in what is stored, not in addresses.

    Data is what a store writes. Of an address, only loop variables are multiplied, and addresses
    are the indices of loads and stores, which are left out here.
    """
    products = []
    for store in walk(func.body, into_loads=True):
        if type(store).__name__ not in ("BufferStore", "Evaluate", "Bind"):
            continue
        for node in walk(store.value, into_loads=False):
            kind = type(node).__name__
            if kind in ("Mul", "Div", "FloorDiv"):
                products.append(kind)
            elif kind == "Call" and "intrin" in node.op.name:
                name = intrinsic_name(node.args[0].value)
                if any(part in name for part in ("dpb", "dpw", "mul", "madd", "dot", "fma", "mla")):
                    products.append((name.rsplit(".", 1)[0], str(node.args[-1])))
    return products


def intrinsic_name(number):
    return tvm.get_global_func("target.llvm_get_intrinsic_name")(number)


@pytest.mark.parametrize("target", ["host", "rpi4"])
def test_two_states_leave_no_multiplication(tmp_path, target):
    """Ternary weights and activations of two states, bit-serial: what is left is at both ends.

    The image is divided by its scale when it is quantized, and the logits, which are float, pass
    through the last normalization. In between, bits are counted, shifted, added and compared.
    """
    device = targets.get(target)
    program = integer_program(lively(replace(WORDS, activation_states=2)), tmp_path / "net.onnx")
    lowered = to_kernels(choose_kernels(program, device, "bitserial"), device)
    names = {name for name, _, _ in lowered.kernels.values()}
    assert names == {"qconv2d_w2a8_bitserial", "qconv2d_w2a1_bitserial", "qdense_w2a5_bitserial"}
    called = {
        call.args[0].name_hint for _, call in calls(lowered.module) if is_op(call, "relax.call_tir")
    }
    found = {}
    for name in called:
        products = set(data_products(lowered.module[name]))
        # AVX-512 adds the bytes of counts by a dot product with one power of two, a shift.
        products -= {
            ("llvm.x86.avx512.vpdpbusd", f"T.Broadcast(T.int8({sign << shift}), 64)")
            for sign in (1, -1)
            for shift in range(7)
        }
        if products:
            found[name] = products
    assert found == {"qnn_quantize": {"Div"}, "qdense_w2a5_bitserial": {"Mul"}}
    last = lowered.module["qdense_w2a5_bitserial"]
    multiplied = [
        str(node.a) for node in walk(last.body, into_loads=False) if type(node).__name__ == "Mul"
    ]
    assert [text for text in multiplied if "float32" in text], multiplied


def test_more_states_multiply_where_two_do_not(tmp_path):
    device = targets.get("rpi4")
    program = integer_program(lively(replace(WORDS, activation_states=8)), tmp_path / "net.onnx")
    lowered = to_kernels(choose_kernels(program, device, "bitserial"), device)
    kernels = {name for name, _, _ in lowered.kernels.values() if name.startswith("qconv2d")}
    assert kernels
    for name in kernels:
        assert "Mul" in data_products(lowered.module[name])


@pytest.mark.emulated
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_emulated_board_gives_the_labels_of_pytorch(tmp_path, name):
    net = lively(NETWORKS[name])
    images = random_images(net.cfg, 16)
    export.save(export.to_onnx(net, batch=16), tmp_path / "net.onnx")
    bundle = tvm_qnn.compile(tmp_path / "net.onnx", "rpi4", tmp_path / "bundle", bundle=True).path
    np.savez(tmp_path / "in.npz", image=scaled(images))
    (got,) = run_emulated(bundle, targets.get("rpi4").qemu_cpu, tmp_path / "in.npz").values()
    assert got.argmax(1).tolist() == logits(net, images).argmax(1).tolist()
