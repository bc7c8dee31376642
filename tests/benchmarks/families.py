"""Print the table of families as Markdown: what adapting, merging, peft and the two exports come to in each.

python -m tests.benchmarks.families                     # all, about twenty minutes on one core
python -m tests.benchmarks.families pvt_v2_b0 coat_tiny
python -m tests.benchmarks.families --no-export
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

from tests.backbones.architectures import FAMILIES, Family
from tests.backbones.table import Row, measure

HEADINGS = (
    "architecture",
    "px",
    "as",
    "layers",
    "other",
    "dead",
    "says",
    "merged",
    "ONNX",
    "IR",
    "bytes",
    "peft f32",
    "peft f64",
    "peft merge",
    "adapter",
    "dense",
    "share",
    "s",
    "export s",
)
LEGEND = """\
`layers`: linear layers adapted; `other`: those left as they are, heads apart; `dead`: targets without a gradient.
`says`: how far the adapter moves the logits; `merged`: dense against adapted; `ONNX`, `IR`: against dense.
`bytes`: saved, loaded and saved again, and through peft; `peft`: its answers with the adapter, in f32 and in f64.
`peft merge`: its merged weights in f64 against ours, in steps of f32 (0.5 is rounding).
Differences are max |a - b| / max(1, max |b|) over the logits.
`adapter`, `dense`: tensors' entries in the files (rank 2; the head is in both); `share`: of the bytes."""


def cells(row: Row) -> tuple[str, ...]:
    family = row.family
    return (
        family.architecture + (f" ({shrunk})" if (shrunk := _shrunk(family)) else ""),
        str(family.side),
        family.kind,
        str(row.layers),
        str(row.left_out),
        str(row.dead),
        f"{row.said:.0e}",
        f"{row.merged:.1e}",
        *("-" if value is None else f"{value:.1e}" for value in (row.onnx, row.openvino)),
        "same" if row.same_bytes else "differ",
        f"{row.peft_f32:.1e}",
        f"{row.peft_f64:.0e}",
        f"{row.peft_merge:.2f}",
        f"{row.adapter_parameters / 1e3:.0f} k",
        f"{row.dense_parameters / 1e6:.1f} M",
        f"{100 * row.adapter_bytes / row.dense_bytes:.1f} %",
        f"{row.seconds:.1f}",
        f"{row.export_seconds:.1f}",
    )


def _shrunk(family: Family) -> str:
    """What was made smaller, the image apart."""
    kept = {key: value for key, value in family.shrunk.items() if key not in ("img_size", "pretrained_cfg_overlay")}
    return ", ".join(f"{key} {value}" for key, value in kept.items())


def line(values: tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help="all by default")
    parser.add_argument("--no-export", action="store_true", help="leave ONNX and OpenVINO out")
    given = parser.parse_args()
    if unknown := sorted(set(given.architectures) - FAMILIES.keys()):
        parser.error(f"not in the table: {', '.join(unknown)}")
    warnings.simplefilter("ignore")
    print(line(HEADINGS), line(("---",) * len(HEADINGS)), sep="\n")
    started = time.perf_counter()
    failures: list[str] = []
    for name in given.architectures or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(FAMILIES[name], Path(folder), export=not given.no_export)
        print(line(cells(row)), flush=True)
        if row.failure:
            failures.append(f"- {name}: {row.failure}")
    print("", LEGEND, *failures, f"{time.perf_counter() - started:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
