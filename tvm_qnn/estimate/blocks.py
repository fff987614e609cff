"""Cycles of machine code: executed blocks counted by qemu-user, each costed by llvm-mca.

The sum is the same in every run. It covers prologues, packing and epilogues; it knows nothing of
caches, mispredicted branches and overlap between blocks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

VERSIONS = ("-22", "-21", "-20", "-19", "-18", "-17", "-16", "-15", "-14", "")
ITERATIONS = 100


MISSING = "llvm-mca is not installed (Debian: llvm)"


@dataclass(frozen=True)
class Tools:
    """The LLVM programs that estimates need, all of one version."""

    mca: str
    objdump: str
    nm: str

    @staticmethod
    def find() -> Tools | None:
        """Return the newest installed version; None if there is none."""
        for version in VERSIONS:
            found = [shutil.which(f"llvm-{name}{version}") for name in ("mca", "objdump", "nm")]
            if all(found):
                return Tools(*map(str, found))
        return None

    def version(self) -> str:
        """Return what the programs say of themselves, such as ``LLVM 22.1.8``."""
        text = subprocess.run([self.mca, "--version"], capture_output=True, text=True).stdout
        match = re.search(r"LLVM version ([\d.]+)", text)
        return f"LLVM {match[1]}" if match else "LLVM"


@dataclass(frozen=True)
class Code:
    """The text section of one object inside of a linked program.

    Attributes:
        start: its address in the program.
        lines: assembly by address in the program.
    """

    start: int
    lines: dict[int, str]

    @property
    def flags(self) -> list[str]:
        """Flags of qemu-user that log the blocks of this code as they run."""
        size = max(self.lines) + 4 - self.start
        return ["-d", "in_asm,exec,nochain", "-dfilter", f"{self.start:#x}+{size:#x}"]


def locate(tools: Tools, obj: Path, program: Path, symbol: str) -> Code:
    """Find the code of ``obj``, which defines ``symbol``, in the program it is linked into."""
    start = _address(tools, program, symbol) - _address(tools, obj, symbol)
    command = [tools.objdump, "-d", "--no-show-raw-insn", "--section=.text"]
    # qemu's own disassembler does not know the dot product, so the text comes from LLVM.
    command += ["--mattr=+dotprod,+fullfp16", str(obj)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = {
        start + int(m[1], 16): re.split(r"<|//", m[2])[0].strip()
        for m in re.finditer(r"^\s*([0-9a-f]+):\s+(\S.*)$", text, re.M)
    }
    return Code(start, lines)


def _address(tools: Tools, path: Path, symbol: str) -> int:
    text = subprocess.run([tools.nm, str(path)], capture_output=True, text=True, check=True).stdout
    match = re.search(rf"^([0-9a-f]+) \w {re.escape(symbol)}$", text, re.M)
    if match is None:
        raise RuntimeError(f"{path.name} has no symbol {symbol}")
    return int(match[1], 16)


def executed(log: Iterable[str]) -> dict[tuple[int, int], int]:
    """Count the blocks in a qemu log: (address, instructions) -> how often it ran.

    qemu cuts blocks at branches, page ends and a maximum length; the log shows each once when it is
    translated (``IN:`` and its instructions) and one ``Trace`` line whenever it runs.
    """
    sizes: dict[int, int] = {}
    counts: Counter[int] = Counter()
    block: list[int] = []
    for line in log:
        if line.startswith("Trace"):
            counts[int(line.split("/", 2)[1], 16)] += 1
        elif line.startswith("0x"):
            block.append(int(line.split(":", 1)[0], 16))
        elif line.startswith("IN:"):
            block = []
        elif not line.strip() and block:
            sizes[block[0]] = len(block)
    if block:
        sizes[block[0]] = len(block)
    return {(address, sizes[address]): n for address, n in counts.items()}


def block_cycles(tools: Tools, blocks: Sequence[Sequence[str]], cpu: Sequence[str]) -> list[float]:
    """Return the cycles of each block when it runs again and again.

    Args:
        tools: the LLVM programs.
        blocks: assembly lines of each block.
        cpu: processor name of the LLVM model, then flags of llvm-mca.
    """
    source = []
    for number, lines in enumerate(blocks):
        source.append(f"// LLVM-MCA-BEGIN b{number}")
        source += [_relabel(line, number) for line in lines]
        source += [f".Lb{number}:", "// LLVM-MCA-END"]
    command = [tools.mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu[0]}", *cpu[1:]]
    command += ["-instruction-info=0", "-resource-pressure=0", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input="\n".join([*source, ""]), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"llvm-mca: {done.stderr.strip()[-500:]}")
    found = dict(re.findall(r"Code Region - b(\d+)\n.*?Total Cycles:\s+(\d+)", done.stdout, re.S))
    return [int(found[str(number)]) / ITERATIONS for number in range(len(blocks))]


def _relabel(line: str, number: int) -> str:
    """Point a branch or an address at a label that exists: llvm-mca does not follow them."""
    line = re.sub(
        r"^((?:b|bl|b\.\w+|cbn?z|tbn?z)\s.*?)(?:#?0x[0-9a-f]+)$", rf"\g<1>.Lb{number}", line
    )
    return re.sub(r"^(adrp?\s+\w+,\s*)#?0x[0-9a-f]+$", r"\g<1>#0", line)
