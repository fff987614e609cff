"""Matrix products with few rows on a GPU: family ``gemv``, which reads packed weights once.

Such a product takes as long as its weights take to arrive, so they stay as small as they are: 1, 2,
4 or 8 bits each. The lanes of a warp share the channels of the input, each reads 16 bytes of
weights at once, and an output channel belongs to a warp.

Digits of less than 8 bits are not shifted into place. A word has some of them in each byte,
``8 / bits`` sets of four; a mask leaves one set, whose bytes are ``2**shift`` times the digits, and
the sum of each set, kept apart, is shifted once at the end. Weights are packed [O, spans, lanes, 4]
so that the words of activations which neighbouring lanes want are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import te, tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, cuda_code, ir, tiling
from tvm_qnn.schedules.algebra import Correction, Digits, index_digits
from tvm_qnn.schedules.cuda_gemm import LAUNCH
from tvm_qnn.schedules.cuda_operands import Bytes, Words
from tvm_qnn.schedules.epilogue import has_result
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import Packed, TiledFamily
from tvm_qnn.targets.record import Target

MOST_ROWS = 8
"""For more, tensor cores are faster than all these sums."""
_WORDS = 4
"""That a lane reads at once."""
_LANES = (32, 16, 8, 4)
_THREADS = 256
_SUMS, _CHANNELS = 32, 32
"""Of a thread and of a block, without tuning."""


class CudaGemv(TiledFamily):
    """Matrix products of up to ``MOST_ROWS`` rows, weights of up to 8 bits."""

    name = "gemv"
    _operands = Bytes(align=16)

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        rows = cuda.rows_of(work)
        if work.groups != 1 or work.kernel != (1, 1) or work.strides != (1, 1) or any(work.padding):
            return Refusal(self.name, "not a matrix product", "other families take it")
        if rows > MOST_ROWS:
            reason = f"{rows} rows share the weights"
            return Refusal(self.name, reason, f"at most {MOST_ROWS}; others take more")
        found = self._operands.refuse(work)
        return None if found is None else Refusal(self.name, *found)

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        assert target.gpu is not None
        stored = 4
        for extent in self.packed(work, target).shape:
            stored *= extent
        products = stored * 8 // _bits(work) * cuda.rows_of(work)
        computed = products / target.rates.dot / target.gpu.processors
        staged = self._operands.stages(work)
        return max(stored / target.gpu.bandwidth, computed) + LAUNCH * (1 + staged)

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        x, w = self._operands.digits(work)
        return x, w if _bits(work) == 8 else index_digits(work.w, work.w_zero)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        warps, each = _tile(work)
        tile = warps * each
        if work.epilogue.pack:
            tile = ceil_div(tile, WORD) * WORD
        return cuda.make_plan(work, cuda.rows_of(work), tile, 1, 1)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        bits, lanes = _bits(work), _lanes(work)
        digits = self.digits(work, target)[1]

        def layout(indices: Any) -> Callable[..., Any]:
            def word(o: Any, span: Any, lane: Any, j: Any) -> Any:
                part = te.reduce_axis((0, 8 // bits), "part")
                byte = te.reduce_axis((0, 4), "byte")
                c = _word_of(work, span, lane, j, part) * 4 + byte
                digit = weight_digit(indices, digits, "int32", o, 0, 0, c) & (2**bits - 1)
                place = (byte * 8 + part * bits).astype("uint32")
                return te.sum(digit.astype("uint32") << place, axis=[part, byte])

            return word

        columns = self.plan(work, target).columns
        return Packed((columns, _spans(work), lanes, _WORDS), "uint32", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, bits, lanes, spans = self.plan(work, target), _bits(work), _lanes(work), _spans(work)
        words, signed = self._operands.words(work, x, 0), self._operands.kind(work) == "s8"
        rows, parts = plan.width_stored, 8 // bits
        count = spans * lanes * _WORDS * parts
        image = ir.named("image", ir.alloc((rows, count), "uint32"))
        with ir.stage("image", (rows, count // _WORDS)) as (row, g):
            place, _ = cuda.source(work, plan, row, 0, 0)
            read = words.read(place, 0, g * _WORDS, _WORDS)
            inside = None
            if count * 4 > work.in_channels:
                inside = g < ceil_div(work.in_channels, 4 * _WORDS)
            none = ir.const(0, "uint32", _WORDS)
            ir.store(image, cuda.inside_or(inside, read, none), row, ir.lanes_at(g * 4, 4))
        window_sums = None
        if correction.slope is not None:
            window_sums = _row_sums(work, plan, words, signed=signed)
        acc = ir.alloc((rows, plan.columns, parts, lanes), "int32")
        with ir.stage("acc", acc.shape, (spans, _WORDS)) as (row, o, part, lane, span, j):
            with ir.init():
                ir.store(acc, tirx.const(0, "int32"), row, o, part, lane)
            some = w[o, span, lane, j]
            if bits < 8:
                mask = tirx.const((2**bits - 1) * 0x01010101, "uint32")
                shift = ir.cast(part * bits, "uint32")
                some = tirx.bitwise_and(some, tirx.shift_left(mask, shift))
            total = cuda_code.dp4a(
                image[row, _word_of(work, span, lane, j, part)], some, acc[row, o, part, lane],
                signed=signed, weights_signed=bits == 8,
            )  # fmt: skip
            ir.store(acc, total, row, o, part, lane)
        sums = ir.alloc((rows, plan.columns), "int32")
        with ir.stage("sums", sums.shape, (lanes,)) as (row, o, lane):
            with ir.init():
                ir.store(sums, tirx.const(0, "int32"), row, o)
            whole = acc[row, o, 0, lane]
            for part in range(1, parts):
                shift = tirx.const(part * bits, "int32")
                whole = whole + tirx.shift_right(acc[row, o, part, lane], shift)
            ir.store(sums, sums[row, o] + whole, row, o)
        return lambda n, h, v, o: sums[v, o], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`.

        Sampled are the channels of a block, how its warps share them, and how many spans are read
        at once.
        """
        warps, each = _tile(work)
        _, _, rows, columns = sch.get_loops(sch.get_sblock("out"))
        granule = WORD if work.epilogue.pack else 1
        tile = max(1, warps * each // granule)
        count = int(sch.get(columns).extent)
        (outer, inner), _ = tiling.sample(sch, columns, [count // tile, tile], _THREADS)
        sch.reorder(outer, rows, inner)
        sch.bind(outer, "blockIdx.x")
        late = []
        if has_result(work, self.plan(work, target)):
            late.append(result := sch.get_sblock("result"))
            sch.set_scope(result, 0, "shared" if work.epilogue.pack else "local")
            sch.compute_at(result, outer, preserve_unit_loops=True)
        sums = sch.get_sblock("sums")
        sch.set_scope(sums, 0, "shared")
        sch.compute_at(sums, outer, preserve_unit_loops=True)
        row, channel, lane = sch.get_loops(sums)[-3:]
        total = int(sch.get(channel).extent)
        (ty, some), (down, _) = tiling.sample(sch, channel, [warps, total // warps], 16)
        sch.reorder(ty, some, row, lane)
        sch.bind(ty, "threadIdx.y")
        sch.bind(lane, "threadIdx.x")
        acc = sch.get_sblock("acc")
        sch.set_scope(acc, 0, "local")
        sch.compute_at(acc, ty, preserve_unit_loops=True)
        self._accumulate(sch, acc, _bits(work))
        threads = [("threadIdx.y", down), ("threadIdx.x", _lanes(work))]
        if cuda.has_block(sch, "window_sum"):
            self._sum_rows(sch, outer, threads)
        last = cuda.share(sch, [rows, inner], threads)
        for block in late:
            if work.epilogue.pack:
                cuda.share(sch, sch.get_loops(block)[-2:], threads)
            else:
                sch.compute_at(block, last, preserve_unit_loops=True)
        cuda.bind_rest(sch)

    @staticmethod
    def _accumulate(sch: Any, acc: Any, bits: int) -> None:
        """Nest the sums of a warp: weights once a span, activations once for all channels."""
        row, channel, part, lane, span, j = sch.get_loops(acc)[-6:]
        count = int(sch.get(span).extent)
        (outer, inner), _ = tiling.sample(sch, span, [count, 1], 4)
        if bits < 4:
            part0, part1 = sch.split(part, [None, _WORDS])
            before, after = [j, part0], [part1]
        elif bits == 4:
            j0, j1 = sch.split(j, [None, 2])
            before, after = [j0], [j1, part]
        else:
            before, after = [], [j, part]
        sch.reorder(lane, outer, inner, *before, row, *after, channel)
        sch.bind(lane, "threadIdx.x")
        image = sch.get_sblock("image")
        sch.set_scope(image, 0, "local")
        sch.compute_at(image, row, preserve_unit_loops=True)
        weights = cuda.cache_read(sch, acc, "weights", "local")
        sch.compute_at(weights, inner, preserve_unit_loops=True)
        *_, each, _, _, word = sch.get_loops(weights)
        sch.vectorize(word)
        for loop in (inner, each, *before, row, *after, channel):
            sch.unroll(loop)
        clear = sch.decompose_reduction(acc, outer)
        for loop in sch.get_loops(clear):
            if sch.get(loop).thread_binding is None:
                sch.unroll(loop)

    @staticmethod
    def _sum_rows(sch: Any, at: Any, threads: cuda.Threads) -> None:
        """Let all threads of a block add up the activations of a row."""
        block = sch.get_sblock("window_sum")
        sch.set_scope(block, 0, "shared")
        sch.compute_at(block, at, preserve_unit_loops=True)
        channel = sch.get_loops(block)[-1]
        _, *bound = sch.split(channel, [None, *(extent for _, extent in threads)])
        for loop, (axis, _) in zip(bound, threads, strict=True):
            sch.bind(loop, axis)


def _row_sums(work: ConvWork, plan: Plan, words: Words, *, signed: bool) -> Any:
    """Write the sums of the activations of each row: int32 [1, 1, rows, 1]."""
    sums = ir.alloc((1, 1, plan.width_stored, 1), "int32")
    count = ceil_div(work.in_channels, 4)
    with ir.stage("window_sum", (plan.width_stored,), (count,)) as (row, word):
        with ir.init():
            ir.store(sums, tirx.const(0, "int32"), 0, 0, row, 0)
        place, _ = cuda.source(work, plan, row, 0, 0)
        ones = tirx.const(0x01010101, "uint32")
        found = cuda_code.dp4a(
            words.read(place, 0, word, 1), ones, tirx.const(0, "int32"), signed=signed
        )
        ir.store(sums, sums[0, 0, row, 0] + found, 0, 0, row, 0)
    return sums


def _bits(work: ConvWork) -> int:
    """Return the bits in which a weight is stored."""
    return next(bits for bits in (1, 2, 4, 8) if work.w.bits <= bits)


def _span_bytes(work: ConvWork, lanes: int) -> int:
    """Return the bytes of an output channel in whole spans of some lanes."""
    span = lanes * _WORDS * 4
    return ceil_div(ceil_div(work.in_channels * _bits(work), 8), span) * span


def _lanes(work: ConvWork) -> int:
    """Return the lanes that share an output channel: many, unless they would read nothing."""
    return min(_LANES, key=lambda lanes: (_span_bytes(work, lanes), -lanes))


def _spans(work: ConvWork) -> int:
    lanes = _lanes(work)
    return _span_bytes(work, lanes) // (lanes * _WORDS * 4)


def _tile(work: ConvWork) -> tuple[int, int]:
    """Return the warps of a block (of fewer lanes than a true one, maybe) and channels of each."""
    each = max(1, min(4, _SUMS * _bits(work) // (8 * cuda.rows_of(work))))
    return min(_THREADS // _lanes(work), _CHANNELS // each), each


def _word_of(work: ConvWork, span: Any, lane: Any, j: Any, part: Any) -> Any:
    """Return the word of activations that set ``part`` of word ``j`` of a lane belongs to."""
    parts, lanes = 8 // _bits(work), _lanes(work)
    if parts >= _WORDS:
        several = parts // _WORDS
        quad = (span * _WORDS + j) * several + tirx.floordiv(part, _WORDS)
        place = tirx.floormod(part, _WORDS)
    elif parts == 2:
        quad, place = span * 2 + tirx.floordiv(j, 2), tirx.floormod(j, 2) * 2 + part
    else:
        quad, place = span, j
    return (quad * lanes + lane) * _WORDS + place
