"""ONNX functions of the fixed-point operators, with bodies of standard operators.

ONNX has no truncating fixed-point arithmetic and no Hamming similarity. A model that needs them
carries these functions (domain ``tvm_qnn.fixed``, version 1): ONNX Runtime computes their bodies
and gets the integers of :mod:`tvm_qnn.spec.fixed`; the importer of this package recognises them.

Codes are int8 or int16. Integer division of ONNX truncates toward zero, as the definitions do.
"""

from __future__ import annotations

from functools import cache

from onnx import FunctionProto, parser

DOMAIN = "tvm_qnn.fixed"
VERSION = 1
OPSET = 21

# Scalars that most bodies need, of the attributes; "wide" ones are int64, the others int32.
_FORMAT = """
    one = Constant <value = uint64 {1}> ()
    fraction_bits = Constant <value_int: int = @fraction> ()
    integer_bits = Constant <value_int: int = @integer> ()
    fraction_shift = Cast <to = 13> (fraction_bits)
    unsigned_scale = BitShift <direction = "LEFT"> (one, fraction_shift)
    wide_scale = Cast <to = 7> (unsigned_scale)
    scale = Cast <to = 6> (unsigned_scale)
    magnitude_bits = Add (integer_bits, fraction_bits)
    magnitude_shift = Cast <to = 13> (magnitude_bits)
    unsigned_end = BitShift <direction = "LEFT"> (one, magnitude_shift)
    unsigned_limit = Sub (unsigned_end, one)
    wide_limit = Cast <to = 7> (unsigned_limit)
    limit = Cast <to = 6> (unsigned_limit)
    lowest = Neg (limit)
"""

# A key as a factor: its sign at full scale where it is binary, so that the product is exact.
_KEY = """
    key_codes = Cast <to = 6> (key)
    zero = Constant <value = int32 {0}> ()
    negative_scale = Neg (scale)
    positive = GreaterOrEqual (key_codes, zero)
    sign = Where (positive, scale, negative_scale)
    wide_binary = Constant <value_int: int = @binary> ()
    is_binary = Cast <to = 9> (wide_binary)
    factor = Where (is_binary, sign, key_codes)
"""

_PRODUCTS = """
    exact_product = Mul (left, right)
    truncated_product = Div (exact_product, scale)
    product = Clip (truncated_product, lowest, limit)
"""

_BODIES = {
    "FixedConvert <src_integer, src_fraction, integer, fraction, to> (x) => (y)": f"""{_FORMAT}
    src_bits = Constant <value_int: int = @src_fraction> ()
    src_shift = Cast <to = 13> (src_bits)
    unsigned_src_scale = BitShift <direction = "LEFT"> (one, src_shift)
    src_scale = Cast <to = 7> (unsigned_src_scale)
    codes = Cast <to = 7> (x)
    scaled = Mul (codes, wide_scale)
    truncated = Div (scaled, src_scale)
    wide_lowest = Neg (wide_limit)
    clipped = Clip (truncated, wide_lowest, wide_limit)
    y = Cast <to: int = @to> (clipped)
    """,
    "FixedBag <integer, fraction> (table, words) => (y)": f"""{_FORMAT}
    zero = Constant <value = int32 {{0}}> ()
    wide_rows = Shape <start = 0, end = 1> (table)
    rows = Cast <to = 6> (wide_rows)
    not_negative = GreaterOrEqual (words, zero)
    below_end = Less (words, rows)
    inside = And (not_negative, below_end)
    index = Where (inside, words, zero)
    picked = Gather <axis = 0> (table, index)
    codes = Cast <to = 6> (picked)
    axes = Constant <value_ints = [-2]> ()
    sum = ReduceSum <keepdims = 0> (codes, axes)
    clipped = Clip (sum, lowest, limit)
    y = CastLike (clipped, table)
    """,
    "FixedValid (words) => (y)": """
    zero = Constant <value = int32 {0}> ()
    padding = Equal (words, zero)
    used = Not (padding)
    number = Cast <to = 6> (used)
    axes = Constant <value_ints = [-1]> ()
    any_used = ReduceMax <keepdims = 0> (number, axes)
    y = Cast <to = 9> (any_used)
    """,
    "FixedDense <integer, fraction, binary> (weights, key) => (y)": f"""{_FORMAT}{_KEY}
    left = Cast <to = 6> (weights)
    before_last = Constant <value_ints = [-2]> ()
    right = Unsqueeze (factor, before_last)
    {_PRODUCTS}
    axes = Constant <value_ints = [-1]> ()
    sum = ReduceSum <keepdims = 0> (product, axes)
    clipped = Clip (sum, lowest, limit)
    y = CastLike (clipped, weights)
    """,
    "FixedSimilarity <integer, fraction, binary> (memory, key) => (y)": f"""{_FORMAT}{_KEY}
    left = Cast <to = 6> (memory)
    slots = Constant <value_ints = [1]> ()
    right = Unsqueeze (factor, slots)
    {_PRODUCTS}
    axes = Constant <value_ints = [-1]> ()
    sum = ReduceSum <keepdims = 0> (product, axes)
    clipped = Clip (sum, lowest, limit)
    y = CastLike (clipped, memory)
    """,
    "HammingSimilarity <integer, fraction, alpha> (memory, key) => (y)": f"""{_FORMAT}
    left = Cast <to = 6> (memory)
    slots = Constant <value_ints = [1]> ()
    key_codes = Cast <to = 6> (key)
    right = Unsqueeze (key_codes, slots)
    left_magnitude = Abs (left)
    right_magnitude = Abs (right)
    different = BitwiseXor (left_magnitude, right_magnitude)
    equal = Sub (limit, different)
    zero = Constant <value = int32 {{0}}> ()
    left_negative = Less (left, zero)
    right_negative = Less (right, zero)
    opposite = Xor (left_negative, right_negative)
    minus = Neg (equal)
    term = Where (opposite, minus, equal)
    axes = Constant <value_ints = [-1]> ()
    raw = ReduceSum <keepdims = 0> (term, axes)
    wide_raw = Cast <to = 7> (raw)
    sign_bit = Constant <value_int = 1> ()
    alpha_bits = Constant <value_int: int = @alpha> ()
    high_bits = Add (integer_bits, sign_bit)
    raw_bits = Sub (high_bits, alpha_bits)
    raw_shift = Cast <to = 13> (raw_bits)
    unsigned_raw_scale = BitShift <direction = "LEFT"> (one, raw_shift)
    raw_scale = Cast <to = 7> (unsigned_raw_scale)
    truncated = Div (wide_raw, raw_scale)
    wide_lowest = Neg (wide_limit)
    clipped = Clip (truncated, wide_lowest, wide_limit)
    y = CastLike (clipped, memory)
    """,
    "FixedSoftmax <integer, fraction> (scores, used) => (y)": f"""{_FORMAT}
    codes = Cast <to = 6> (scores)
    candidates = Where (used, codes, lowest)
    axes = Constant <value_ints = [-1]> ()
    largest = ReduceMax <keepdims = 1> (candidates, axes)
    distance = Sub (largest, candidates)
    exact_distance = Cast <to = 11> (distance)
    exact_scale = Cast <to = 11> (wide_scale)
    real_distance = Div (exact_distance, exact_scale)
    exponent = Neg (real_distance)
    exponential = Exp (exponent)
    table_scale = Constant <value = double {{16777216}}> ()
    scaled = Mul (exponential, table_scale)
    rounded = Round (scaled)
    entry = Cast <to = 7> (rounded)
    nothing = Constant <value = int64 {{0}}> ()
    weight = Where (used, entry, nothing)
    sum = ReduceSum <keepdims = 1> (weight, axes)
    least = Constant <value = int64 {{1}}> ()
    divisor = Max (sum, least)
    shifted = Mul (weight, wide_scale)
    quotient = Div (shifted, divisor)
    clipped = Min (quotient, wide_limit)
    y = CastLike (clipped, scores)
    """,
    "FixedRead <integer, fraction> (p, memory) => (y)": f"""{_FORMAT}
    left = Cast <to = 6> (memory)
    weight = Cast <to = 6> (p)
    last = Constant <value_ints = [-1]> ()
    right = Unsqueeze (weight, last)
    {_PRODUCTS}
    axes = Constant <value_ints = [1]> ()
    sum = ReduceSum <keepdims = 0> (product, axes)
    clipped = Clip (sum, lowest, limit)
    y = CastLike (clipped, memory)
    """,
    "FixedAdd <integer, fraction> (a, b) => (y)": f"""{_FORMAT}
    left = Cast <to = 6> (a)
    right = Cast <to = 6> (b)
    sum = Add (left, right)
    clipped = Clip (sum, lowest, limit)
    y = CastLike (clipped, a)
    """,
    # A running sum adds in the stated order; its last element is the result.
    "FixedOutput <integer, fraction> (weights, key) => (y)": f"""{_FORMAT}
    codes = Cast <to = 1> (key)
    real_scale = Cast <to = 1> (scale)
    value = Div (codes, real_scale)
    before_last = Constant <value_ints = [-2]> ()
    column = Unsqueeze (value, before_last)
    product = Mul (weights, column)
    last = Constant <value = int64 {{-1}}> ()
    sums = CumSum (product, last)
    y = Gather <axis = -1> (sums, last)
    """,
}


@cache
def functions() -> dict[str, FunctionProto]:
    """Return all functions of the domain by name; do not change them."""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'
    parsed = [
        _pruned(parser.parse_function(f"{header} {signature} {{{body}}}"))
        for signature, body in _BODIES.items()
    ]
    return {function.name: function for function in parsed}


def _pruned(function: FunctionProto) -> FunctionProto:
    """Remove the nodes that no output needs: scalars of other functions."""
    needed = set(function.output)
    kept = []
    for node in reversed(function.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del function.node[:]
    function.node.extend(reversed(kept))
    return function
