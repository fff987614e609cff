"""ONNX models of memory networks: fixed point with the functions of this package, or float.

The fixed-point form is the network of Q-MANN with codes as weights; its inputs are word numbers,
or memories that are filled already. The float form consists of standard operators only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tvm_qnn._version import __version__
from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.fixed_functions import DOMAIN, VERSION, functions
from tvm_qnn.nn.export import IR_VERSION, OPSET, Graph
from tvm_qnn.nn.qmann.memory_network import MemoryNetwork, float_network
from tvm_qnn.nn.qmann.state import Trained
from tvm_qnn.nn.vocabulary import METADATA
from tvm_qnn.spec import FixedPoint, fixed_quantize


def from_trained(trained: Trained, name: str = "") -> MemoryNetwork:
    """Return a trained network as arrays.

    Args:
        trained: what :func:`tvm_qnn.nn.qmann.state.load_trained` reads.
        name: of the graph; that of the task if empty.

    Raises:
        ModelError: if it has no exported form.
    """
    cfg, weights = trained.config, trained.weights
    return MemoryNetwork(
        address=weights["wa"],
        content=weights["wr"],
        question=weights["wq"],
        key=weights["wk"],
        answer=weights["wo"],
        fmt=cfg.format,
        similarity=cfg.similarity,
        binary=cfg.binary,
        control=cfg.control,
        alpha=cfg.alpha,
        hops=cfg.hops,
        words=tuple(trained.record["dictionary"]),
        name=name or str(trained.record["name"]),
    )


def trained_to_onnx(trained: Trained, batch: int = 1, name: str = "") -> onnx.ModelProto:
    """Build the model of a trained network in the sizes of its task; see :func:`to_onnx`."""
    slots, words, asked = (int(trained.record[k]) for k in ("slots", "words", "question_words"))
    return to_onnx(from_trained(trained, name), slots, words, asked, batch)


def to_onnx(
    net: MemoryNetwork, slots: int, sentence: int, question: int, batch: int = 1
) -> onnx.ModelProto:
    """Build the model of a network that reads its stories.

    Args:
        net: the network.
        slots: sentences of a story, L.
        sentence: words of a sentence (its time slot is one of them), W.
        question: words of a question.
        batch: N.

    Returns:
        Checked model: inputs ``story`` [N, L, W] and ``question`` [N, question] int32, 0 for
        padding; output ``logits`` [N, A] float32.

    Raises:
        ModelError: if a size is not positive.
    """
    _positive(slots=slots, sentence=sentence, question=question, batch=batch)
    inputs = {
        "story": (TensorProto.INT32, [batch, slots, sentence]),
        "question": (TensorProto.INT32, [batch, question]),
    }
    graph = Graph()
    if net.fmt is None:
        float_network(graph, net)
    else:
        fixed = _Fixed(graph, net)
        valid = fixed.call("FixedValid", "valid", ["story"])
        fixed.answer(fixed.bags("story"), valid)
    return _model(net, graph, inputs, batch, slots)


def to_onnx_with_memory(
    net: MemoryNetwork, slots: int, question: int, batch: int = 1
) -> onnx.ModelProto:
    """Build the model of a fixed-point network whose memories are given, not read from a story.

    Args:
        net: the network.
        slots: L.
        question: words of a question.
        batch: N.

    Returns:
        Checked model: inputs ``memory_a`` and ``memory_r`` [N, L, E], codes of ``net.fmt`` (one
        pair a hop, ``memory_a_1`` and so on, with control of the formats), ``used`` [N, L] uint8,
        0 for empty slots, and ``question`` [N, question] int32; output ``logits`` [N, A].

    Raises:
        ModelError: if a size is not positive, or the network is float.
    """
    _positive(slots=slots, question=question, batch=batch)
    if net.fmt is None:
        raise ModelError(f"{net.name}: a float network has no codes to fill a memory with")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(net.fmt.dtype))
    memories = memory_names(net)
    inputs = {name: (kind, [batch, slots, net.width]) for name in dict.fromkeys(sum(memories, ()))}
    inputs["used"] = (TensorProto.UINT8, [batch, slots])
    inputs["question"] = (TensorProto.INT32, [batch, question])
    graph = Graph()
    valid = graph.node("Cast", "valid", ["used"], to=TensorProto.BOOL)
    _Fixed(graph, net).answer(memories, valid)
    return _model(net, graph, inputs, batch, slots)


def memory_names(net: MemoryNetwork) -> list[tuple[str, str]]:
    """Return the inputs that hold the addresses and the contents of each hop."""
    if net.control:
        return [(f"memory_a_{hop}", f"memory_r_{hop}") for hop in range(1, net.hops + 1)]
    return [("memory_a", "memory_r")] * net.hops


@dataclass
class _Fixed:
    """A fixed-point network under construction: nodes of our functions."""

    graph: Graph
    net: MemoryNetwork

    def call(
        self, op: str, name: str, inputs: list[str], fmt: FixedPoint | None = None, **more: Any
    ) -> str:
        """Add a node of our domain."""
        if fmt is not None:
            more |= {"integer": fmt.integer, "fraction": fmt.fraction}
        return self.graph.node(op, name, inputs, domain=DOMAIN, **more)

    def weights(self, name: str, values: NDArray[np.float32], fmt: FixedPoint) -> str:
        """Add the codes of weights, those of each format once."""
        name = f"{name}_{fmt.integer}_{fmt.fraction}" if self.net.control else name
        if name not in {tensor.name for tensor in self.graph.initializers}:
            self.graph.constant(name, fixed_quantize(values, fmt))
        return name

    def converted(self, name: str, x: str, src: FixedPoint, dst: FixedPoint) -> str:
        """Add a conversion where the formats differ."""
        if src == dst:
            return x
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dst.dtype))
        return self.call(
            "FixedConvert", name, [x], dst, src_integer=src.integer, src_fraction=src.fraction,
            to=kind,
        )  # fmt: skip

    def bag(
        self, name: str, weights: str, table: NDArray[np.float32], words: str, fmt: FixedPoint
    ) -> str:
        """Embed bags of words in a hop's format; the result has the format of the activations."""
        assert self.net.fmt is not None
        codes = self.call("FixedBag", name, [self.weights(weights, table, fmt), words], fmt)
        return self.converted(f"{name}_convert", codes, fmt, self.net.fmt)

    def bags(self, story: str) -> list[tuple[str, str]]:
        """Fill the memories of each hop from a story."""
        pairs: list[tuple[str, str]] = []
        for names, fmt in zip(memory_names(self.net), self.net.hop_formats(), strict=True):
            if pairs and not self.net.control:
                pairs.append(pairs[0])
                continue
            address = self.bag(names[0], "w_a", self.net.address, story, fmt)
            pairs.append((address, self.bag(names[1], "w_r", self.net.content, story, fmt)))
        return pairs

    def answer(self, memories: Sequence[tuple[str, str]], valid: str) -> None:
        """Add the hops and the output layer."""
        net, base = self.net, self.net.fmt
        assert base is not None
        formats = net.hop_formats()
        key = self.bag("key_0", "w_q", net.question, "question", formats[0])
        for hop, ((address, content), fmt) in enumerate(zip(memories, formats, strict=True), 1):
            if net.similarity == "hamming":
                score = self.call(
                    "HammingSimilarity", f"score_{hop}", [address, key], base, alpha=net.alpha
                )
            else:
                score = self.call(
                    "FixedSimilarity", f"score_{hop}", [address, key], base, binary=int(net.binary)
                )
            p = self.call("FixedSoftmax", f"p_{hop}", [score, valid], base)
            read = self.call("FixedRead", f"read_{hop}", [p, content], base)
            # The sign of a binary key is that of the activation: no conversion before it.
            seen = key if net.binary else self.converted(f"key_{hop}_convert", key, base, fmt)
            mapped = self.call(
                "FixedDense", f"update_{hop}", [self.weights("w_k", net.key, fmt), seen], fmt,
                binary=int(net.binary),
            )  # fmt: skip
            mapped = self.converted(f"update_{hop}_convert", mapped, fmt, base)
            key = self.call("FixedAdd", f"key_{hop}", [mapped, read], base)
        self.graph.constant("w_o", net.answer)
        self.graph.node(
            "FixedOutput", "answer", ["w_o", key], "logits", domain=DOMAIN,
            integer=base.integer, fraction=base.fraction,
        )  # fmt: skip


def _model(
    net: MemoryNetwork, graph: Graph, inputs: Mapping[str, tuple[int, list[int]]], batch: int,
    slots: int,
) -> onnx.ModelProto:  # fmt: skip
    info = helper.make_tensor_value_info
    used = {node.op_type for node in graph.nodes if node.domain == DOMAIN}
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(DOMAIN, VERSION)] if used else []
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            net.name,
            [info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [info("logits", TensorProto.FLOAT, [batch, len(net.answer)])],
            graph.initializers,
        ),
        opset_imports=opsets,
        functions=[f for name, f in functions().items() if name in used],
        ir_version=IR_VERSION,
        producer_name="tvm-qnn",
        producer_version=__version__,
    )
    if net.words:
        told = {"words": net.words, "answers": net.words[: len(net.answer)], "slots": slots}
        helper.set_model_props(model, {METADATA: json.dumps(told)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{name} {size}: must be at least 1")
