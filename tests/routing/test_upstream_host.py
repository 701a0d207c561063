"""What shows of a provider."""

from __future__ import annotations

from ..support.asker import Asker
from ..support.recording import target


def test_its_state_shows() -> None:
    made = target(max_concurrent=1)
    assert made.places.reserve(Asker())
    assert repr(made) == "<UpstreamHost api: 1 open of 1, 0 waiting (resting), <CircuitBreaker closed: 0 failures>>"


def test_credentials_do_not_show() -> None:
    made = target(api_key=b"sk-secret", headers=[(b"api-key", b"sk-secret")])
    assert "sk-secret" not in repr(made.settings)
