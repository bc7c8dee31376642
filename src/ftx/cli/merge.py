"""``ftx merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx.cli import console
from ftx.cli.options import JsonFlag, RunArgument

if TYPE_CHECKING:
    from ftx.merging import MergeReport


def command(run: RunArgument = None, json: JsonFlag = False) -> int:
    """Turn what was trained into one dense model, with proof.

    Writes dense/, which timm and transformers open, and reports/merge.json: how far each merged layer lies
    from its separate products in float64, and the logits of held-out images from the trained model's.
    """
    from ftx.merging import merge

    report = merge(run, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        print_merge(report)
    return 0 if report.ok else 1


def print_merge(report: MergeReport) -> None:
    """What was merged where, and the two proofs."""
    facts = [("merged", f"{report.method} into {report.path}, {report.size_bytes / 1e6:.1f} MB")]
    if report.layers:
        facts.append(
            (
                "layers",
                f"{len(report.layers)}, each within {report.max_relative_error:.1e} of its separate products in float64 "
                f"(bound {report.layer_bound:.0e})",
            )
        )
    facts.append(
        (
            "logits",
            f"within {report.max_logit_difference:.1e} of the trained model's on {report.images} images "
            f"(bound {report.logit_bound:.0e})",
        )
    )
    console.print_facts(facts)
    console.print_note("next: ftx export", "dim")
