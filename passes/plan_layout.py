"""Pack activations into bit planes where a bit-serial kernel reads them.

Matches convolutions whose family reads bit planes and whose channels fill whole words, and puts
one ``qnn.pack`` before all of them that read the same codes. ``lower`` lets the producer store the
planes itself where nobody else reads the codes. Leaves other channel counts alone: there the kernel
packs in its own first stage.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn.ops import attrs_of, build, codes_of, is_op, make, shape_of
from tvm_qnn.passes.rewrite import Rewriter, name_of, rewrite
from tvm_qnn.passes.workloads import CONVOLUTIONS
from tvm_qnn.schedules import READS_PLANES

WORD = 32


def plan_layout(mod: Any) -> Any:
    """Return the module with ``qnn.pack`` before bit-serial kernels."""
    packed: dict[Any, Any] = {}

    def visit(rewriter: Rewriter, call: Any, name: str) -> Any:
        if not is_op(call, *CONVOLUTIONS):
            return None
        attrs, x = attrs_of(call), call.args[0]
        channels = shape_of(x)[-1]
        if attrs["kernel"] not in READS_PLANES or attrs["x_layout"] != "codes" or channels % WORD:
            return None
        if x not in packed:
            planes = f"{name_of(x)}_planes"
            packed[x] = rewriter.emit(build.pack(x, codes_of(attrs, "x_")), planes)
        changed = {**attrs, "x_layout": "planes", "channels": channels}
        return make(call.op.name, [packed[x], call.args[1]], **changed)

    return rewrite(mod, visit)
