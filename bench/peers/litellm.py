"""LiteLLM's proxy: one worker, no key needed. It takes requests apart and writes answers anew."""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

LITELLM = """
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: bench
litellm_settings:
  request_timeout: 3600
  telemetry: false
"""


def _litellm(wiring: Wiring) -> dict[str, str]:
    return {}


LITELLM_PEER = Configured(
    "litellm",
    ("litellm", "--config", "{file}", "--host", "127.0.0.1", "--port", "{port}", "--num_workers", "1"),
    LITELLM,
    _litellm,
    providers=("h1",),
    install="pip install 'litellm[proxy]', in an environment of its own",
    environment={
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    },
    suffix="yaml",
    clients=("h1",),
    tls=False,
    share=0.02,
)
