"""How the command line writes a verdict: in a sentence, in a table, and in which style."""

from __future__ import annotations

from collections.abc import Mapping

from ftx.cli import console

# How a sentence begins; the values in reports and tables stay proved, unproved and failed.
VERDICT_WORDS = {"proved": "verified", "unproved": "not proved", "failed": "FAILED"}
VERDICT_STYLES: Mapping[str, console.Style] = {
    "proved": "good",
    "unproved": "strong",
    "failed": "bad",
    "not_run": "dim",
}


def in_table(verdict: str) -> str:
    """The verdict in a cell."""
    return verdict.upper() if verdict == "failed" else verdict
