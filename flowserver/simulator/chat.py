"""OpenAI's chat completions: the request as far as it matters, and the events of the answer. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import openai
from .dialect import CREATED, Dialect, Reply
from .events import FILLER, TEXT, Count, counter, event
from .request import flag, items, model, parse, plan, section, token_limit, words
from .script import Script

ID = "chatcmpl-simulated"

DONE = b"data: [DONE]\n\n"


def read(body: bytes, script: Script) -> ChatReply:
    """The reply to a request; the same for the same request. Raises BadRequest."""
    request = parse(body)
    options = section(request, "stream_options")
    include_usage = bool(options.get("include_usage"))
    return ChatReply(
        plan(
            script,
            model=model(request.get("model", "simulated")),
            streamed=flag(request, "stream"),
            prompt_tokens=words(items(request, "messages")),
            limit=token_limit(request, "max_completion_tokens", "max_tokens"),
        ),
        include_usage=include_usage,
        running_usage=include_usage and bool(options.get("continuous_usage_stats")),
    )


DIALECT = Dialect(read, openai.error)


@dataclass(frozen=True, slots=True)
class ChatReply(Reply):
    include_usage: bool
    """A usage report comes at the end."""
    running_usage: bool
    """And one so far with each event, as vLLM gives it."""

    def opening(self) -> list[bytes]:
        return [event(self._chunk(_choice({"role": "assistant", "content": "", "refusal": None}), self._usage(0)))]

    def content(self) -> bytes:
        prompt, reasoning = self.plan.prompt_tokens, self.plan.reasoning
        running = self._report(counter(reasoning + 1), counter(prompt + reasoning + 1))
        return event(self._chunk(_choice({"content": TEXT}), running) | {"obfuscation": FILLER})

    def closing(self, tokens: int) -> list[bytes]:
        usage = self._usage(tokens)
        events = [event(self._chunk(_choice({}, self._reason), usage))]
        if self.include_usage:
            events.append(event(self._chunk([], usage) | {"usage": usage}))
        return [*events, DONE]

    def answer(self, text: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        return {
            "id": ID,
            "object": "chat.completion",
            "created": CREATED,
            "model": self.plan.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}],
            "usage": self._usage(self.plan.tokens),
        }

    @property
    def _reason(self) -> str:
        return "length" if self.plan.limited else "stop"

    def _usage(self, tokens: int) -> dict[str, Any]:
        output = self.plan.reasoning + tokens
        return self._report(output, self.plan.prompt_tokens + output)

    def _report(self, output: Count, total: Count) -> dict[str, Any]:
        report: dict[str, Any] = {
            "prompt_tokens": self.plan.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": total,
        }
        if self.plan.reasoning:
            report["completion_tokens_details"] = {"reasoning_tokens": self.plan.reasoning}
        return report

    def _chunk(self, choices: list[dict[str, Any]], so_far: dict[str, Any]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": ID,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": self.plan.model,
            "choices": choices,
        }
        if self.include_usage:
            chunk["usage"] = so_far if self.running_usage else None
        return chunk


def _choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": reason}]
