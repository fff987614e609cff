"""The zoo's network is an integer program: int64 sums and one affine map a layer give its codes."""

import numpy as np
import onnx
import pytest

from tvm_qnn import zoo

onnxruntime = pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

COUNT = 12


def convolve(codes, weight, stride):
    """3x3 convolution with zero padding 1 of ``[N, C, H, W]`` by ``[O, C, 3, 3]``, all int64."""
    padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def affine(array, name):
    """Factor and offset of a normalization, float64 from the file's float32 parameters."""
    gain, bias, mean, var = (
        array[f"{name}_{part}"].astype(np.float64) for part in ("gain", "bias", "mean", "variance")
    )
    factor = gain / np.sqrt(var + 1e-5)
    return factor, bias - mean * factor


@pytest.mark.parametrize("rounding", ["float64", "float32"])
def test_integer_program_gives_every_code_of_the_float_model(rounding):
    model = onnx.load(zoo.path("maqd-fashion"))
    array = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    strides = [
        next(a.ints[0] for a in node.attribute if a.name == "strides")
        for node in model.graph.node
        if node.op_type == "Conv"
    ]
    names = [f"activation{n}_quantize_out" for n in range(1, len(strides) + 1)]
    names += ["pooled_quantize_out", "logits"]
    for name in names[:-1]:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 2, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = zoo.samples("maqd-fashion")["image"][:COUNT]
    runs = [session.run(names, {"image": image[i : i + 1]}) for i in range(COUNT)]
    expected = {name: np.concatenate(parts) for name, *parts in zip(names, *runs, strict=True)}

    codes, scale = np.round(image * 255).astype(np.int64), np.float64(array["image_scale"])
    for number, stride in enumerate(strides, start=1):
        sums = convolve(codes, array[f"conv{number}_weight_codes"].astype(np.int64), stride)
        factor, offset = (part.reshape(-1, 1, 1) for part in affine(array, f"norm{number}"))
        if rounding == "float32":
            steps = sums.astype(np.float32) * np.float32(factor * scale) + np.float32(offset)
        else:
            steps = sums * factor * scale + offset
        codes = np.clip(np.round(steps), 0, 3).astype(np.int64)
        scale = np.float64(array[f"activation{number}_scale"])
        assert scale == 1.0
        assert codes.tolist() == expected[f"activation{number}_quantize_out"].tolist()
    pooled = codes.sum(axis=(2, 3))
    assert pooled.tolist() == expected["pooled_quantize_out"].tolist()
    sums = pooled @ array["linear_weight_codes"].astype(np.int64).T
    factor, offset = affine(array, "linear_norm")
    logits = sums * np.float64(array["pooled_scale"]) * factor + offset
    assert logits.argmax(1).tolist() == expected["logits"].argmax(1).tolist()
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
