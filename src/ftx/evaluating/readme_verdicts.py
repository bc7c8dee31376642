"""The verdicts in the model card of ``dense/``: how far the accuracy of each exported model is verified."""

from __future__ import annotations

import re

from ftx.core.errors import EnvironmentFault
from ftx.core.progress import SILENT, Progress
from ftx.runs.artifacts import DENSE, IR_INT8_CHECKED
from ftx.runs.parity_json import ParityReport
from ftx.runs.run import Run
from ftx.runs.run_json import MODEL_CARD

_HEADING = "## Verdicts"
# From the heading to the next one of its level, or to the end.
_SECTION = re.compile(rf"^{re.escape(_HEADING)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
# The section stands before this one, after what was measured and proved earlier.
_NEXT = re.compile(r"^## (?:How to use|Use)\n", re.MULTILINE)  # the latter in cards of earlier versions


def write_verdicts(run: Run, report: ParityReport, progress: Progress = SILENT) -> None:
    """Write the verdicts of a validation into the card, in the place of those of an earlier one."""
    path = run.folder(DENSE) / MODEL_CARD
    if not path.is_file():  # a run of an older ftx has none
        return
    text = _SECTION.sub("", path.read_text(encoding="utf-8"))
    found = _NEXT.search(text)
    at = found.start() if found else len(text)
    try:
        run.write_file(f"{DENSE}/{MODEL_CARD}", f"{text[:at]}{_section(report)}\n\n{text[at:]}".encode(), progress)
    except EnvironmentFault as fault:  # the verdict is known all the same
        progress.note(f"{DENSE}/{MODEL_CARD} cannot be written: {fault.what} ({fault.found})")


def _section(report: ParityReport) -> str:
    how = f"`ftx validate` compared each model with the trained one in torch fp32, on the {report.split} images"
    lines = [
        f"{_HEADING}\n",
        f"{how} and {report.machine}. The limit is {100 * report.max_drop:g} points of accuracy.\n",
        "| model | verdict | figures |",
        "| --- | --- | --- |",
        *(f"| {name} | {verdict} | {_plain(report.summary[name])} |" for name, verdict in report.verdicts.items()),
    ]
    if report.certificates:
        lines.append(f"\nCertificate of {IR_INT8_CHECKED}, for new images from the same source:\n")
        lines += [f"- {one.way}: {one.verdict}, {one.summary}" for one in report.certificates]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
