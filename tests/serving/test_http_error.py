"""What each kind of error is told as: a status, a sentence, and whether to ask again."""

from __future__ import annotations

import pytest

from ftx.core.errors import EnvironmentFault, ExportError, FtxError, ImageError, InputError
from ftx.serving.http_error import HttpError, http_error_of, sentence_of, suggestion


@pytest.mark.parametrize(
    ("error", "status", "sentence", "headers"),
    [
        (HttpError(413, "too much"), 413, "too much", {}),
        (HttpError(401, "no token"), 401, "no token", {"www-authenticate": "Bearer"}),
        (HttpError(503, "busy", retry_after_s=7), 503, "busy", {"retry-after": "7"}),
        (MemoryError(), 503, "the server has not enough memory for this now", {"retry-after": "1"}),
        (RuntimeError("std::bad_alloc"), 503, "the server has not enough memory for this now", {"retry-after": "1"}),
        (ImageError("broken", where="secret.png", found="text", fix="send one"), 422, "broken (text): send one", {}),
        (ExportError("does not fit", where="/srv/model", found="/srv", fix="export it"), 422, "does not fit", {}),
        (InputError("wrong", where="/srv", found="x", fix="y"), 400, "wrong (x): y", {}),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int, sentence: str, headers: dict[str, str]) -> None:
    refused = http_error_of(error)
    assert refused is not None
    assert (refused.status, refused.sentence, dict(refused.headers)) == (status, sentence, headers)


@pytest.mark.parametrize("error", [ValueError("x"), EnvironmentFault("no disk"), FtxError("x"), RuntimeError("x")])
def test_what_nobody_foresaw_is_no_answer(error: Exception) -> None:
    assert http_error_of(error) is None


def test_a_sentence_leaves_out_what_is_not_known() -> None:
    assert sentence_of(InputError("wrong")) == "wrong"
    assert sentence_of(InputError("wrong", fix="do")) == "wrong: do"
    assert sentence_of(InputError("wrong", found="x")) == "wrong (x)"
    assert suggestion("colur", ["colour", "shape"]) == "did you mean 'colour'?"
    assert suggestion("zzz", ["colour", "shape"]) == "choose from colour, shape"
