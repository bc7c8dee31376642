"""A request that gets no answer: a status and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ftx.core.errors import ExportError, FtxError, ImageError, InputError, nearest
from ftx.core.memory import is_out_of_memory


class Refused(Exception):
    """What is told to the client; ``retry_after_s`` where the same request may be answered later."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after_s = status, sentence, retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that belong to the status."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class Disconnected(Exception):
    """The client went away before it had sent all: there is nobody to answer."""


def said(error: FtxError) -> str:
    """An error in one sentence: what, what was found, and how to fix it."""
    found = f" ({error.found})" if error.found else ""
    return f"{error.what}{found}" + (f": {error.fix}" if error.fix else "")


def instead(name: str, known: Collection[str]) -> str:
    """What to ask for in the place of a name that there is not: the nearest, or what there is."""
    alike = nearest(name, known)
    return f"did you mean '{alike}'?" if alike else f"there is {', '.join(known)}"


def refusal_of(error: Exception) -> Refused | None:
    """An error of the library as an answer; None if it is one that nobody foresaw."""
    if isinstance(error, Refused):
        return error
    if is_out_of_memory(error):
        return Refused(503, "the server has not enough memory for this now", retry_after_s=1)
    if isinstance(error, ImageError):  # of an image that was read, the file's own name is not the client's
        return Refused(422, said(error))
    if isinstance(error, ExportError):
        return Refused(422, error.what)
    return Refused(400, said(error)) if isinstance(error, InputError) else None
