"""A pretend provider for the demo, the tests and the benchmarks.

It speaks OpenAI's chat completions and Responses, Anthropic's Messages and Gemini's generateContent over HTTP/1.1.
What it does is asked for in each request (`script`). It tells per stream how many tokens it has emitted, how many bytes
its socket has accepted and when it was cancelled, so that budgets can be checked and backpressure seen to arrive.
"""

from __future__ import annotations

from .server import Simulator

__all__ = ["Simulator"]
