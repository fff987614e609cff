"""End-to-end memory network with quantized memory access (Q-MANN), in PyTorch.

Source: Park et al., "Quantized Memory-Augmented Neural Networks" (AAAI 2018). The forward pass in
eval mode gives exactly the integers of :mod:`tvm_qnn.spec.fixed`. A leading axis ``S`` holds
networks of one configuration that train side by side and never meet.

Activations are values (code / 2**fraction), which float32 holds exactly. Backward every quantizer
passes the gradient unchanged; the gradient of a product takes the float master weight and the
quantized activation.

Where the paper leaves room or does not train as printed:

* The sign term of equation 7 is ``2**alpha * S_u (S_u - S_v)``. With signs of +1 and -1 that is
  ``+2**(alpha + 1)`` whenever they differ, whichever way ("printed"). The authors' code takes the
  sign bits in the parenthesis, like the magnitude bits beside it, hence ``-2**alpha`` ("code", the
  default: the steadiest of the three on tasks 1, 5, 6, 8, 15 and 20). Smoothing the sign like a
  magnitude bit gives ``2**alpha (S_v - S_u)`` ("consistent").
* The paper says that gradients are not quantized, which is the default. The authors' code computes
  the gradient of the weighted read in fixed point, Q1.(i+f-1), in Hamming networks
  (``read_gradient="quantized"``). Small gradients vanish there, and with them the drift of master
  weights beyond the range of the format once the questions are learnt.
* "hamming-code" is the similarity of the authors' code: ``127 - |u - v|`` for each element, with
  the sign of the product, twice the weight, and not truncated to the format. Where the signs differ
  the sum of the magnitudes saturates at 127.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tvm_qnn.nn.qmann.config import MATRICES, QmannConfig
from tvm_qnn.nn.qmann.functions import binary, dense, dot, hamming, read, softmax, straight
from tvm_qnn.spec.fixed import FixedPoint


class QmannNet(nn.Module):
    """``S`` memory networks of one configuration.

    Parameters: ``wa``, ``wr``, ``wq`` ``[S, V, E]`` (row 0 is NULL and stays 0), ``wk``
    ``[S, E, E]`` (out, in), ``wo`` ``[S, V, E]``, all float32.
    """

    wa: nn.Parameter
    wr: nn.Parameter
    wq: nn.Parameter
    wk: nn.Parameter
    wo: nn.Parameter

    def __init__(self, cfg: QmannConfig, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.cfg = cfg
        for name in MATRICES:
            array = torch.from_numpy(np.array(weights[name], np.float32))
            self.register_parameter(name, nn.Parameter(array))

    def forward(self, story: Tensor, question: Tensor) -> Tensor:
        """Answer questions.

        Args:
            story: ``[N, L, W]`` integers, word indices of sentences.
            question: ``[N, W]`` integers.

        Returns:
            Logits ``[S, N, V]`` float32.
        """
        return self.trace(story, question)[0]

    def trace(self, story: Tensor, question: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """:meth:`forward`, and the similarities ``[S, N, L]`` and keys ``[S, N, E]`` of the hops.

        There is one key more than there are hops: the last one is what the output layer sees.
        """
        valid = (story != 0).any(-1)
        words, asked = (_bags(x, self.wa) for x in (story, question))
        key = self._bag(self.wq, asked.unsqueeze(1), 0).squeeze(2)
        scores, keys = [], [key]
        for hop in range(self.cfg.hops):
            memory, content = (self._bag(w, words, hop) for w in (self.wa, self.wr))
            score = self._similarity(memory, key)
            key = self._next(key, self._read(score, content, valid), hop)
            scores.append(score.detach() * valid)
            keys.append(key)
        return self._output(key), scores, keys

    def _formats(self, hop: int) -> tuple[FixedPoint, ...]:
        """Format of the parameters of a hop, then that of activations; none in float."""
        own = self.cfg.hop_formats()
        return (own[hop], self.cfg.format) if own and self.cfg.format else ()

    def _bag(self, table: Tensor, bags: Tensor, hop: int) -> Tensor:
        formats = self._formats(hop)
        rows = straight(table, *formats[:1])
        return straight(torch.matmul(bags, rows.unsqueeze(1)), *formats)

    def _seen(self, key: Tensor) -> Tensor:
        return binary(key) if self.cfg.binary else key

    def _similarity(self, memory: Tensor, key: Tensor) -> Tensor:
        fmt = self.cfg.format
        if fmt is not None and self.cfg.similarity != "dot":
            return hamming(memory, key, fmt, self.cfg)
        seen = self._seen(key)
        if fmt is None or self.cfg.binary:
            return straight((memory * seen.unsqueeze(-2)).sum(-1), *([fmt] if fmt else []))
        return straight(dot(memory, seen, fmt), fmt)

    def _read(self, score: Tensor, content: Tensor, valid: Tensor) -> Tensor:
        fmt = self.cfg.format
        if fmt is None:
            hidden = score.masked_fill(~valid, -torch.inf)
            p = torch.softmax(hidden, -1).nan_to_num()
            return (p.unsqueeze(-1) * content).sum(-2)
        p = softmax(score, valid, fmt, self.cfg.similarity != "hamming-code")
        return straight(read(p, content, fmt, self.cfg), fmt)

    def _next(self, key: Tensor, found: Tensor, hop: int) -> Tensor:
        formats = self._formats(hop)
        seen = self._seen(key)
        if not formats:
            return torch.matmul(seen, self.wk.mT) + found
        update = dense(self.wk, seen, formats[0], self.cfg.binary)
        return straight(straight(update, *formats) + found, formats[-1])

    def _output(self, key: Tensor) -> Tensor:
        if self.training:
            return torch.matmul(key, self.wo.mT)
        # The order that the definition states: one product and one sum after the other.
        total = key.new_zeros((*key.shape[:-1], self.wo.shape[1]))
        for e in range(key.shape[-1]):
            total = total + self.wo[:, None, :, e] * key[..., e, None]
        return total


def _bags(words: Tensor, table: Tensor) -> Tensor:
    """Counts ``[..., V]`` of the words ``[..., W]`` as rows of a table; padding counts nothing."""
    counts = table.new_zeros((*words.shape[:-1], table.shape[1]))
    counts.scatter_add_(-1, words.long(), (words != 0).to(table.dtype))
    return counts


def initial(
    cfg: QmannConfig, vocabulary: int, seeds: list[int], deviation: float = 0.1
) -> dict[str, np.ndarray]:
    """Initial weights of one network a seed, ``N(0, deviation**2)``.

    Args:
        cfg: The networks.
        vocabulary: Words and time words V.
        seeds: One for each network.
        deviation: Standard deviation.

    Returns:
        float32 arrays shaped like the parameters of :class:`QmannNet`. The weights of a seed do
        not depend on the other seeds.
    """
    shapes = dict.fromkeys(MATRICES, (vocabulary, cfg.embedding))
    shapes["wk"] = (cfg.embedding, cfg.embedding)
    networks = []
    for seed in seeds:
        random = np.random.default_rng(seed)
        networks.append({name: random.standard_normal(shapes[name]) for name in MATRICES})
    weights = {
        name: np.stack([deviation * one[name] for one in networks]).astype(np.float32)
        for name in MATRICES
    }
    for name in ("wa", "wr", "wq"):
        weights[name][:, 0] = 0
    return weights
