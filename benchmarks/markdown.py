"""Markdown that all sections of docs/results.md are written in."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: str) -> str:
    """Write a share as CSV files hold it; what is empty stays empty."""
    return f"{100 * float(share):.2f} %" if share else ""


def kibibytes(size: str) -> str:
    """Write a number of bytes as CSV files hold it; what is empty stays empty."""
    return f"{float(size) / 1024:.1f}" if size else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
