"""The values of the page's template: issues as plain data, and the headings of their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftx.curating.issues import KINDS, Issue, IssueKind
from ftx.curating.look import Look
from ftx.tasks.task_names import TASK_FACTS

NAMES: dict[IssueKind, str] = {
    "label": "Probably a wrong label",
    "label-unproved": "Perhaps a wrong label (unproved)",
    "contradiction": "Same picture, different labels",
    "near-duplicate": "Held-out image that is also used in training",
    "unreadable": "File cannot be read",
}


def shown_paths(issues: Sequence[Issue]) -> list[str]:
    """The images of the page, by their numbers: each issue's and the one that it is like."""
    return list(dict.fromkeys(path for one in issues for path in (one.path, one.other) if path is not None))


def page_data(look: Look) -> dict[str, object]:
    """The values of the template, which escapes them."""
    report, table = look.report, look.table
    number = {path: row for row, path in enumerate(shown_paths(table.issues))}
    issues = [
        {
            "path": one.path,
            "issue": one.issue,
            "given": one.given,
            "suggested": one.suggested,
            "score": one.score,
            "choice": one.choice,
            "reason": one.reason,
            "image": None if one.issue == "unreadable" else number[one.path],
            "other": one.other,
            "otherImage": None if one.other is None else number[one.other],
        }
        for one in table.issues
    ]
    known = table.spelling.known
    occurring = {
        part for one in table.issues for text in (one.given, _suggested_labels(one)) for part in text.split(";")
    }
    return {
        "report": report,
        "name": Path(report.path).resolve().name,
        "names": [(kind, NAMES[kind], report.counts[kind]) for kind in KINDS if kind in report.counts],
        "classes": [label for label in known if label in occurring or any(label == one.given for one in table.issues)],
        "known": known,
        "rows": [
            (
                one.name,
                f"{one.images:,}",
                f"{one.found:.1%}",
                f"{one.mistaken:.1%}",
                one.suspected,
                f"no: {one.unproved}" if one.unproved else "yes",
            )
            for one in report.labels
        ],
        "data": {"issues": issues, "names": NAMES, "several": not TASK_FACTS[report.task].one_label},
    }


def _suggested_labels(one: Issue) -> str:
    return "" if one.issue == "near-duplicate" else one.suggested
