"""OpenAI's transcriptions and images: requests that may be forms, answers that report their usage. No I/O.

https://platform.openai.com/docs/api-reference/audio and .../images
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name, user_name
from .api_paths import deployment_of, ends_with
from .base import KeyPaths, Meter, Quirks, RequestParams
from .common import BaseFormat, JsonMeter, count, error_text, sse, text
from .openai_common import ACCOUNT_FIELDS, HEARTBEAT, KEY_PATHS, mapping, read_usage

_TEXT_DELTA = "transcript.text.delta"


class MediaMeter(JsonMeter):
    """Text is counted as it arrives; for images only the report has tokens. Whisper reports seconds, not tokens, so its
    answers are estimated."""

    has_text = False

    __slots__ = ()

    def _read(self, event: Any) -> None:
        kind = event.get("type") or ""
        if kind == _TEXT_DELTA:
            self._add(event["delta"])
        elif kind == "error" or "error" in event:
            self.failed = error_text(event.get("error") or event)
        elif kind.endswith((".partial_image", ".segment")):
            self.other_output = True
        elif kind.endswith((".done", ".completed")):
            self.finished = True
            self._read_usage(event)

    def _read_usage(self, answer: Any) -> None:
        self.model = model_name(answer.get("model")) or self.model
        if report := mapping(answer.get("usage")):
            self._note_report(read_usage(self.usage, report))

    def _read_whole(self, answer: Any) -> None:
        self.finished = True
        self._add(text(answer.get("text")) or "")
        self._read_usage(answer)

    def ending(self, prompt: int, output: int) -> bytes:
        """A transcription ends as if there were nothing more to transcribe. Images have no shorter form."""
        if self.finished or not self.content_bytes:
            return b""
        usage = {"type": "tokens", "input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}
        event = {"type": "transcript.text.done", "text": "", "usage": usage}
        return sse(event)

    def failure(self, error: RelayError) -> bytes:
        return sse({"type": "error", "error": {"message": error.message, "code": error.code}})


class OpenAIMedia(BaseFormat):
    __slots__ = ("_ends", "name")

    heartbeat: bytes | None = HEARTBEAT
    key_paths: KeyPaths | None = KEY_PATHS
    account_fields = ACCOUNT_FIELDS
    takes_forms = True
    reads = Reads(dict.fromkeys(("model", "stream", "n", "user")))

    def __init__(self, name: str, *ends: str) -> None:
        self.name = name
        self._ends = ends

    def serves(self, target: str) -> bool:
        return ends_with(target, *self._ends)

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        """In a form all values are texts."""
        images = count(body.get("n")) or 1
        return RequestParams(
            model=model_name(deployment_of(target) or body.get("model")),
            stream=body.get("stream") in (True, "true"),
            choices=images,
            answers=images,
            user=user_name(body.get("user")),
        )

    def path_model(self, target: str) -> str | None:
        return deployment_of(target)

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """These requests have no field that limits tokens."""
        return False

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return MediaMeter()

    def error(self, error: RelayError) -> bytes:
        return error.body()


OPENAI_TRANSCRIPTIONS = OpenAIMedia("openai-transcriptions", "/audio/transcriptions", "/audio/translations")
OPENAI_IMAGES = OpenAIMedia("openai-images", "/images/generations", "/images/edits", "/images/variations")
