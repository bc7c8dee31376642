"""``ftx merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx.cli import console
from ftx.cli.options import DataOption, JsonFlag, RunArgument
from ftx.errors import shell_command

if TYPE_CHECKING:
    from ftx.merging import MergeReport


def command(run: RunArgument = None, data: DataOption = None, json: JsonFlag = False) -> int:
    """Turn what was trained into one dense model, with proof.

    Writes dense/, which timm and transformers open, and reports/merge.json: how far each merged layer lies
    from its separate products in float64, and the logits of held-out images from the trained model's.
    """
    from ftx.merging import merge

    report = merge(run, data=data, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        print_merge(report)
    return 0 if report.ok else 1


def print_merge(report: MergeReport) -> None:
    """What was merged where, and the two proofs."""
    facts = [("merged", f"{report.method} into {report.path}, {report.size_bytes / 1e6:.1f} MB")]
    if report.layers:
        error, bound = report.max_relative_error, report.layer_bound
        shown = f"{len(report.layers)}, within {error:.1e} of their separate products in float64 (bound {bound:.0e})"
        facts.append(("layers", shown))
    difference, bound = report.max_logit_difference, report.logit_bound
    shown = (
        f"within {difference:.1e} of the trained model's on {report.images} {report.images_from} (bound {bound:.0e})"
    )
    facts.append(("logits", shown))
    console.print_facts(facts)
    console.print_note(f"next: {shell_command('ftx export --format openvino', report.run)}", "dim")
