"""Numbers as people read them."""

from __future__ import annotations


def count(number: float) -> str:
    """Write a number with a prefix: 7.2 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    for limit, unit, factor in ((1.0, "s", 1.0), (1e-3, "ms", 1e3)):
        if seconds >= limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def size(number: float) -> str:
    """Write a number of bytes: 12.5 KiB."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        # Three digits are shown, so 1000 KiB are 0.977 MiB.
        if number >= 999.5 * limit / 1024:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f} B"


def energy(picojoules: float) -> str:
    """Write an energy: 2.47 µJ."""
    for limit, unit in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if picojoules >= limit:
            return f"{picojoules / limit:.3g} {unit}"
    return f"{picojoules:.3g} pJ"
