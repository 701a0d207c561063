"""A pretend provider for the demo, the tests and the benchmarks.

It speaks OpenAI's chat completions and Responses, Anthropic's Messages and Gemini's generateContent over HTTP/1.1. Each
request says what it should do (`script`). For each stream it reports how many tokens it has emitted, how many bytes its
socket has accepted and when it was cancelled, so that budgets and backpressure can be checked.
"""

from __future__ import annotations

from .server import Simulator

__all__ = ["Simulator"]
