"""Amounts of money: whole nano-dollars, so that sums are exact in any order. No I/O."""

from __future__ import annotations

NANO = 1_000_000_000
"""Nano-dollars per dollar."""
PICO = 1000
"""Pico-dollars per nano-dollar. Prices per token are in pico-dollars: a dollar per million tokens is a million of
them."""


def usd_text(nano: int) -> str:
    """The exact amount in dollars, such as `12.5`."""
    dollars, rest = divmod(nano, NANO)
    return f"{dollars}.{rest:09d}".rstrip("0").rstrip(".")


def usd_number(nano: int) -> float:
    """The nearest float of dollars, for display, not for sums."""
    return nano / NANO


def nano_dollars(pico: int) -> int:
    """`pico` pico-dollars, rounded up."""
    return -(-pico // PICO)
