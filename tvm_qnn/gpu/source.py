"""CUDA C++ as TVM generates it, rewritten into C++ that ``emulator.h`` runs on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ASM = re.compile(r"(?:__asm__\s+__volatile__|asm\s+volatile|asm)\s*\(")
_HEADERS = re.compile(r"^\s*#include <(?:cuda\w*|mma|sm_\w+)\.h>\s*$", re.M)
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?:(?:__align__|alignas)\(\d+\)\s+)?"
    r"(?P<type>[\w ]+?)\s+(?P<name>\w+)\[(?P<size>\d*)\];"
)
_WAITS = re.compile(r"__sync|_sync\(|mma\.sync|ldmatrix|cp\.async")
_PREDICATED = re.compile(
    r"\{\s*\.reg \.pred p;\s*setp\.eq\.u32 p, %3, 1;\s*@p cp\.async\.c[ag]\.shared\.global "
    r"\[%0\], \[%1\], %2;\s*@!p st\.shared\.(?:v[24]\.)?u32 \[%0\], \{%4(?:, %4)*\};\s*\}$"
)
"""Of TVM: an asynchronous copy on a condition, else zeros."""
_OPERAND = re.compile(r'\s*,?\s*"[^"]*"\s*\(')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


class UnknownInstructionError(Exception):
    """The emulator does not know an instruction of inline PTX."""


def waits(source: str) -> bool:
    """Tell whether threads wait for each other, or move data between them."""
    return _WAITS.search(source) is not None


def rewrite(source: str) -> str:
    """Return C++ for ``emulator.h``: without headers, shared memory and inline PTX of CUDA.

    Raises:
        UnknownInstructionError: for inline PTX that is not emulated.
    """
    pieces = iter(range(1 << 30))
    source = _HEADERS.sub("", source)
    source = _SHARED.sub(lambda found: _shared(found, next(pieces)), source)
    return "".join(_without_asm(source))


def _shared(found: re.Match[str], piece: int) -> str:
    kind, name = found["type"], found["name"]
    if found["extern"]:
        return f"{kind}* {name} = ({kind}*)emu::shared({piece}, emu::block.dynamic_bytes);"
    return (
        f"typedef {kind} emu_{name}[{found['size']}]; "
        f"emu_{name}& {name} = *(emu_{name}*)emu::shared({piece}, sizeof(emu_{name}));"
    )


def _without_asm(source: str) -> Iterator[str]:
    """Split the source at its asm statements, and replace those by calls."""
    end = 0
    for found in _ASM.finditer(source):
        if found.start() < end:
            continue
        yield source[end : found.start()]
        close = _closing(source, found.end())
        text, outputs, inputs = _parts(source[found.end() : close])
        yield _call("".join(_STRING.findall(text)), _operands(outputs), _operands(inputs))
        end = close + 1 + (source[close + 1 : close + 2] == ";")
    yield source[end:]


def _closing(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one before ``start``."""
    depth, quoted = 1, False
    for place in range(start, len(text)):
        letter = text[place]
        if letter == '"' and text[place - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                return place
    raise UnknownInstructionError(text[start : start + 60])


def _parts(body: str) -> tuple[str, str, str]:
    """Split an asm statement at its colons into text, outputs and inputs."""
    parts, depth, quoted = [""], 0, False
    for place, letter in enumerate(body):
        if letter == '"' and body[place - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter == "(") - (letter == ")")
            if letter == ":" and depth == 0:
                parts.append("")
                continue
        parts[-1] += letter
    return (parts[0], *[*parts[1:], "", ""][:2])  # type: ignore[return-value]


def _operands(text: str) -> list[str]:
    """Return the expressions of ``"r"(a), "r"(b)``."""
    found, place = [], 0
    while opening := _OPERAND.match(text, place):
        close = _closing(text, opening.end())
        found.append(text[opening.end() : close])
        place = close + 1
    return found


def _call(text: str, outputs: list[str], inputs: list[str]) -> str:
    """Return the C++ for one instruction of PTX."""
    ptx = text.replace("\\n", " ").replace("\\t", " ").strip()
    values = [*outputs, *inputs]
    if _PREDICATED.match(ptx):
        to, start, size, predicate, _ = values
        copy = f"emu::copy_later(emu::pointer({to}), (const void*)({start}), {size})"
        return f"if ({predicate}) {copy}; else emu::clear(emu::pointer({to}), {size});"
    name = re.split(r"[\s{\[]", ptx, maxsplit=1)[0]
    if name.startswith("mma.sync"):
        return _mma(name, ptx, values)
    if name.startswith("ldmatrix"):
        count = int(name.split(".x")[1][0])
        if ".trans" in name:
            raise UnknownInstructionError(ptx)
        return (
            f"{{ uint32_t* out[] = {{{_pointers(values[:count])}}}; "
            f"emu::ldmatrix(out, {count}, emu::pointer({values[count]})); }}"
        )
    if name.startswith("dp4a."):
        kinds = ", ".join(_element(t.replace("32", "8")) for t in name.split(".")[1:3])
        d, a, b, c = values
        return f"{d} = ({c}) + emu::dot({a}, {b}, {kinds});"
    if name.startswith("cp.async.commit_group"):
        return "emu::commit();"
    if name.startswith("cp.async.wait_group"):
        return f"emu::wait({ptx.rstrip(';').split()[-1]});"
    if name.startswith(("cp.async.cg.shared.global", "cp.async.ca.shared.global")):
        to, start, size = values
        return f"emu::copy_later(emu::pointer({to}), (const void*)({start}), {size});"
    raise UnknownInstructionError(ptx)


def _mma(name: str, ptx: str, values: list[str]) -> str:
    kinds = re.fullmatch(
        r"mma\.sync\.aligned\.m16n8k(?:32|64|256)\.row\.col\.s32\.(\w+)\.(\w+)\.s32(?:\.and\.popc)?",
        name,
    )
    if kinds is None:
        raise UnknownInstructionError(ptx)
    d, a, b, c = (
        [values[int(number)] for number in re.findall(r"%(\d+)", group)]
        for group in re.findall(r"\{([^}]*)\}", ptx)
    )
    read = [", ".join(f"(uint32_t)({value})" for value in group) for group in (a, b, c)]
    return (
        f"{{ uint32_t* d[] = {{{_pointers(d)}}}; uint32_t a[] = {{{read[0]}}}, "
        f"b[] = {{{read[1]}}}, c[] = {{{read[2]}}}; "
        f"emu::mma(d, a, b, c, {_element(kinds[1])}, {_element(kinds[2])}); }}"
    )


def _pointers(values: list[str]) -> str:
    return ", ".join(f"(uint32_t*)&({value})" for value in values)


def _element(kind: str) -> str:
    """Return the emulator's name of an element type."""
    names = {"s8": "emu::S8", "u8": "emu::U8", "b1": "emu::B1", "s4": "emu::S4", "u4": "emu::U4"}
    if kind not in names:
        raise UnknownInstructionError(f"elements {kind}")
    return names[kind]
