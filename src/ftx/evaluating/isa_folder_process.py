"""An exported folder, validated in a process held to an instruction set: ``python -m`` this, by ``isa_parity``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftx.core.child_process import reply_on_stdout
from ftx.evaluating.folder_parity import validate_folder
from ftx.evaluating.logit_bounds import Bounds
from ftx.runs.parity_json import ParityReport

MODULE = "ftx.evaluating.isa_folder_process"


class Question(BaseModel):
    """The folder, and the margin (None: that of its run)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    max_drop: float | None


def answer(question: Question) -> ParityReport:
    """Validate it here.

    Raises: ExportError if it is not whole.
    """
    return validate_folder(question.folder, Bounds.of(None), question.max_drop)


if __name__ == "__main__":
    reply_on_stdout(Question, answer)
