"""A request that fails: a status and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ftx.core.errors import ExportError, FtxError, ImageError, InputError, nearest
from ftx.core.memory import is_out_of_memory


class HttpError(Exception):
    """What a client gets instead of a prediction; ``retry_after_s`` if the same request may succeed later."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after_s = status, sentence, retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the status requires."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class Disconnected(Exception):
    """The client closed the connection before it had sent the whole request."""


def sentence_of(error: FtxError) -> str:
    """An error in one sentence: what, what was found, and how to fix it."""
    found = f" ({error.found})" if error.found else ""
    return f"{error.what}{found}" + (f": {error.fix}" if error.fix else "")


def suggestion(name: str, known: Collection[str]) -> str:
    """The nearest known name for an unknown one, or all known names."""
    alike = nearest(name, known)
    return f"did you mean '{alike}'?" if alike else f"choose from {', '.join(known)}"


def http_error_of(error: Exception) -> HttpError | None:
    """The status and the sentence for an error of the library; None for a bug."""
    if isinstance(error, HttpError):
        return error
    if is_out_of_memory(error):
        return HttpError(503, "the server has not enough memory for this now", retry_after_s=1)
    if isinstance(error, ImageError):  # without ``where``: the server's file name is not for the client
        return HttpError(422, sentence_of(error))
    if isinstance(error, ExportError):
        return HttpError(422, error.what)
    return HttpError(400, sentence_of(error)) if isinstance(error, InputError) else None
