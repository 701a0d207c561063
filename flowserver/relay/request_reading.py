"""What one request asks for, read from its head and body as they arrive. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..dialects import path_model
from ..dialects.base import Format, RequestParams
from ..dialects.conversation import ConversationStart
from ..dialects.input_estimate import InputEstimate
from ..dialects.realtime import models_in_query
from ..errors import RelayError, bad_request
from ..http.messages import RequestHead
from ..names import model_name
from .request_body import FormBody, JsonBody, RequestBody, changed, open_body

_NOTHING_YET: Final = RequestParams()
_FILE_TOKENS = 1000
"""Most tokens that a form counts for, as the bytes of a file say nothing about its tokens."""
_SMALL: Final = 1024
"""Bytes of a small body, which is kept until its estimate is needed."""
_MODELS: Final = "models/"
"""Prefix of a model's name in Google's full form."""


class RequestReading:
    """Created with the request's head; `feed` it the body as it arrives, then `finish`."""

    __slots__ = (
        "_body",
        "_estimate",
        "_finds_conversation",
        "_input_estimate",
        "_is_estimated",
        "_is_form",
        "_is_limited",
        "_kept",
        "_request",
        "_size",
        "format",
        "params",
    )

    def __init__(self, request: RequestHead, known: Format | None) -> None:
        self.format = known
        """The format of the API; None: the API is unknown."""
        self._body: RequestBody | None = None
        """None: the request has no body, or it is not read."""
        self.params = _NOTHING_YET
        self._request = request
        self._size = 0
        self._input_estimate: int | None = None
        """None: not computed yet."""
        self._is_limited = False
        """Whether a body that can't be read is refused."""
        self._is_form = False
        self._finds_conversation = False
        self._is_estimated = False
        """Whether the body is JSON of a known API."""
        self._kept = b""
        """Such a body, while it is small: most providers report its tokens, so the estimate may never be needed."""
        self._estimate: InputEstimate | None = None
        """None: the body is still small, or it was estimated."""

    def open(self, *, finds_conversation: bool = False) -> None:
        """Read the head, and prepare for a body if there is one. `finds_conversation`: also determine the
        conversation."""
        if self._request.has_body:
            known = self.format
            reads, takes_forms = (known.reads, known.takes_forms) if known is not None else (None, True)
            self._finds_conversation = finds_conversation
            self._body = open_body(self._request, reads, takes_forms=takes_forms, finds_conversation=finds_conversation)
            self._is_estimated = known is not None and isinstance(self._body, JsonBody)
            self._is_form = isinstance(self._body, FormBody)
        if self._request.is_tunnel:
            self._read({"model": next(iter(models_in_query(self._target)), None)})
        elif self._body is None or path_model(self._target) is not None:
            self._read({})

    @property
    def _target(self) -> str:
        return self._request.target.decode("ascii")

    def conversation(self, pieces: Sequence[bytes]) -> ConversationStart | None:
        """What the conversation in the body `pieces` is known by; None: this was not requested of `open`, or there is
        none."""
        body = self._body
        if not self._finds_conversation or self._is_form or body is None:
            return None
        return ConversationStart(body.noted if isinstance(body, JsonBody) else {}, pieces)

    @property
    def is_known(self) -> bool:
        """Whether all relevant fields are known, before the body is complete."""
        return self._body is not None and self._body.is_known

    def feed(self, data: bytes) -> RelayError | None:
        """Read more of the body. Returns an error if it contradicts what was read before."""
        body = self._body
        self._size += len(data)
        if self._is_estimated:
            self._feed_estimate(data)
        if body is None:
            return None
        known = body.is_known
        body.feed(data)
        if not body.is_known:
            return None
        if not known:
            self._read(body.values)
        return body.error if body.is_ambiguous or self._is_limited else None

    def _feed_estimate(self, data: bytes) -> None:
        if self._estimate is None and self._size <= _SMALL:
            self._kept += data
            return
        if self._estimate is None:
            self._estimate = InputEstimate()
            data, self._kept = self._kept + data, b""
        self._estimate.feed(data)

    def finish(self) -> None:
        """The body is complete."""
        body = self._body
        if body is not None:
            body.finish()
            self._read(body.values)

    def sent(self) -> None:
        """All of the request was sent to a provider. For a stream with a large body the input is estimated here: not
        earlier, as many requests are refused before, and not later, as the data for it would be kept as long as the
        stream."""
        if self.params.stream and self._estimate is not None:
            self._conclude_estimate()

    def forget(self) -> None:
        """The answer has begun: the request can't be changed any more."""
        self._body = None

    def _read(self, values: Mapping[str, Any]) -> None:
        if self.format is not None:
            self.params = self.format.read_params(self._target, values)
        else:
            self.params = RequestParams(model=model_name(path_model(self._target) or values.get("model")))

    def error(self, *, limited: bool) -> RelayError | None:
        """Why the request must be refused. `limited`: an unreadable request is refused, too, since it could not be
        counted."""
        body = self._body
        self._is_limited = limited
        if self._request.is_tunnel and len(models_in_query(self._target)) > 1:
            return bad_request("The query names more than one model.", code="ambiguous_model")
        if body is None:
            return None
        if body.error is not None and (body.is_ambiguous or limited):
            return body.error
        return self._contradiction(body.values.get("model"))

    @property
    def unread(self) -> RelayError | None:
        """Why the body could not be read; None: it could, or there is none."""
        return self._body.error if self._body is not None else None

    @property
    def input_estimate(self) -> int:
        """Estimated tokens of the request, by what had arrived of it when this was first read."""
        estimate = self._input_estimate
        return self._conclude_estimate() if estimate is None else estimate

    def _conclude_estimate(self) -> int:
        """Drops what the estimate is made from, up to 8 KB."""
        self._input_estimate = tokens = self._estimate_input()
        self._estimate = None
        self._is_estimated = False
        self._kept = b""
        return tokens

    def _estimate_input(self) -> int:
        if self._is_form:
            return min(self._size // 4, _FILE_TOKENS)
        if not self._is_estimated or self.format is None:
            return self._size // 4
        estimate = self._estimate
        if estimate is None:
            estimate = InputEstimate()
            estimate.feed(self._kept)
        return estimate.tokens(self.format.name, self.params.model)

    @property
    def values(self) -> Mapping[str, Any] | None:
        """The relevant fields of the body by name; None: the body can't be changed, or not any more."""
        body = self._body
        return None if body is None or body.error is not None else body.values

    def changed(self, after: Mapping[str, Any], pieces: Sequence[bytes]) -> tuple[list[bytes], int] | None:
        """(`pieces` of the body, edited to say `after`, a changed copy of `values`; by how many bytes they grow); None:
        nothing changes."""
        return changed(self._body, after, pieces) if self._body is not None else None

    def _contradiction(self, model: object) -> RelayError | None:
        named = path_model(self._target) if isinstance(model, str) else None
        if named is None or not isinstance(model, str) or model.removeprefix(_MODELS) == named.removeprefix(_MODELS):
            return None
        shown = model_name(named), model_name(model)
        message = "The path names the model {!r}, but the body {!r}. Send the same in both, or none in the body."
        return bad_request(message.format(*shown), code="ambiguous_model")
