"""A pretend provider for the demo, the tests and the benchmarks.

It speaks OpenAI's chat completions over HTTP/1.1. What it does is asked for in each request (`script`), and it tells
per stream how many bytes its socket has accepted and when it was cancelled, so that backpressure can be seen to arrive.
"""

from __future__ import annotations

from .cli import main
from .server import Simulator

__all__ = ["Simulator", "main"]
