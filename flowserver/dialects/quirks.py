"""Who speaks OpenAI's chat format, and in which own way: data. No I/O."""

from __future__ import annotations

from fnmatch import fnmatchcase

from .base import Quirks

GENERIC = Quirks("openai-compatible")
"""What is assumed of a host that nothing is known of: vLLM, SGLang, llama.cpp and most others are like that."""

_KNOWN = (
    Quirks("openai", ("api.openai.com", "*.api.openai.com"), max_tokens="max_completion_tokens"),
    Quirks(
        "azure",
        ("*.openai.azure.com", "*.services.ai.azure.com", "*.cognitiveservices.azure.com"),
        max_tokens="max_completion_tokens",
    ),
    # Takes no stream_options (422); reports unasked, with the last event of each stream.
    Quirks("mistral", ("api.mistral.ai", "codestral.mistral.ai"), usage_option=False),
    # Reports unasked, a running count with each event.
    Quirks("perplexity", ("api.perplexity.ai",), usage_option=False),
    # Chat completions only; in its /responses the sum is whole.
    Quirks("xai", ("api.x.ai", "*.api.x.ai"), max_tokens="max_completion_tokens", reasoning_apart=True),
    Quirks("groq", ("api.groq.com",), max_tokens="max_completion_tokens"),
    Quirks("cerebras", ("api.cerebras.ai",), max_tokens="max_completion_tokens"),
    Quirks("vllm"),
    Quirks("deepseek", ("api.deepseek.com",)),
    Quirks("openrouter", ("openrouter.ai",)),
    Quirks("together", ("api.together.xyz", "api.together.ai")),
    Quirks("fireworks", ("api.fireworks.ai",)),
    Quirks("deepinfra", ("api.deepinfra.com",)),
    Quirks("moonshot", ("api.moonshot.ai", "api.moonshot.cn")),
    Quirks("zai", ("api.z.ai", "open.bigmodel.cn")),
    Quirks("cloudflare", ("api.cloudflare.com", "gateway.ai.cloudflare.com")),
    Quirks("vercel", ("ai-gateway.vercel.sh",)),
    Quirks("snowflake", ("*.snowflakecomputing.com",)),
)

QUIRKS = {quirks.name: quirks for quirks in (GENERIC, *_KNOWN)}


def quirks_for(name: str | None, host: str) -> Quirks:
    """The entry called `name`, which must be in `QUIRKS`, or (None) the one for the host name `host`."""
    if name is not None:
        return QUIRKS[name]
    host = host.lower().removesuffix(".")
    return next((quirks for quirks in _KNOWN if any(fnmatchcase(host, known) for known in quirks.hosts)), GENERIC)
