"""Counts the bytes that are held of an upload, for the streams of both protocols."""

from __future__ import annotations

from ..relay.uploads import Upload, Uploads


class HeldUpload:
    """The part of a `relay.interfaces.DownstreamStream` that is a `relay.interfaces.UploadCount`."""

    __slots__ = ("_upload", "_uploads")

    def __init__(self, uploads: Uploads) -> None:
        """`uploads`: the bound that it counts towards."""
        self._uploads = uploads
        self._upload: Upload | None = None
        """None: nothing is held, as usual."""

    def stop_upload(self) -> None:
        raise NotImplementedError

    def go_on_uploading(self) -> None:
        raise NotImplementedError

    def hold_upload(self, size: int, announced: int | None) -> None:
        if self._upload is None:
            self._upload = Upload(self._uploads, self, announced)
        self._upload.hold(size)

    def end_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.end()

    @property
    def upload_waits(self) -> bool:
        return self._upload is not None and self._upload.waits_since is not None

    def upload_is_overdue(self, now: float) -> bool:
        return self._upload is not None and self._upload.is_overdue(now)
