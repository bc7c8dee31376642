"""Draw what ftx does, with the figures of a real run: ``docs/images/pipeline-light.svg`` and ``pipeline-dark.svg``.

``make transcripts`` draws a run of the quickstart.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ftx.evaluating import ParityReport
from ftx.merging.merge_and_prove import MergeReport
from ftx.runs.compute_precision import F32

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH, HEIGHT = 1184, 256
# A card, the gap to the next, and where the first begins.
CARD, TALL, GAP, LEFT, TOP = 190, 204, 26, 126, 10

THEMES = {
    "light": {
        "paper": "#f6f8fa",
        "edge": "#d0d7de",
        "ink": "#1f2328",
        "dim": "#59636e",
        "verb": "#0550ae",
        "good": "#116329",
        "line": "#8c959f",
    },
    "dark": {
        "paper": "#161b22",
        "edge": "#30363d",
        "ink": "#e6edf3",
        "dim": "#9198a1",
        "verb": "#79c0ff",
        "good": "#3fb950",
        "line": "#6e7681",
    },
}

STYLE = """\
text {{ font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: {ink}; }}
.verb {{ font: 600 18px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {verb}; }}
.dim {{ font-size: 13px; fill: {dim}; }}
.figure {{ font-weight: 600; text-anchor: end; }}
.good {{ fill: {good}; }}
.card {{ fill: {paper}; stroke: {edge}; }}
.photo {{ fill: {paper}; }}
.line {{ stroke: {line}; stroke-width: 2; fill: none; }}
"""

# Three pictures on top of each other, as a file manager shows a folder of them.
PICTURES = """\
<g class="line" transform="translate(10 31)">
<rect class="photo" x="16" y="-16" width="66" height="52" rx="5"/>
<rect class="photo" x="8" y="-8" width="66" height="52" rx="5"/>
<rect class="photo" width="66" height="52" rx="5"/>
<circle cx="19" cy="17" r="5"/><path d="M8 43l17-15 10 8 13-14 10 12"/>
</g>
<text x="10" y="116">images</text>
<text class="dim" x="10" y="137">a folder for</text>
<text class="dim" x="10" y="155">each class</text>
"""


CAPTION = (
    "ftx quickstart: DINOv2 ViT-S/14 with DoRA on Fashion-MNIST. Logits are compared with those of the trained model "
    "before its merge, same pixels, fp32."
)


class Card(NamedTuple):
    """A verb, what it makes, and its figures: what they are, a name and a value each, and their class."""

    verb: str
    makes: str
    about: str
    figures: list[tuple[str, str]]


def cards(run: Path) -> list[Card]:
    """What each verb made, by the run's own reports."""
    reports = run / "reports"
    merged = MergeReport.model_validate_json((reports / "merge.json").read_text(encoding="utf-8"))
    parity = ParityReport.model_validate_json((reports / "parity.json").read_text(encoding="utf-8"))
    adapter_mb = (run / "trained" / "adapter_model.safetensors").stat().st_size / 1e6
    graph = {row.artifact: row for row in parity.rows if row.view == "graph" and row.compute == F32}
    # An artifact's last row is the one as deployed, in the precision that the CPU chooses.
    files = {row.artifact: row for row in parity.rows if row.view == "files"}
    difference = {artifact: f"{row.max_abs:.2g}".replace("e-0", "e-") for artifact, row in graph.items()}
    accuracy = {artifact: f"{100 * (row.accuracy or 0):.1f} %" for artifact, row in files.items()}
    verdict = {
        artifact: said.replace("proved", "✓ proved", said == "proved") for artifact, said in parity.verdicts.items()
    }
    exported = {"onnx": "ONNX", "openvino/fp32": "IR fp32", "openvino/int8": "IR int8"}
    layers = f"{merged.max_relative_error:.2g}".replace("e-0", "e-")
    images = f"on {files['onnx'].images} test images"

    def of_each(values: Mapping[str, str]) -> list[tuple[str, str]]:
        return [(name, values[artifact]) for artifact, name in exported.items()]

    return [
        Card(
            "train",
            "adapter and head",
            images,
            [("accuracy", accuracy["trained"]), ("adapter", f"{adapter_mb:.1f} MB")],
        ),
        Card(
            "merge",
            "one dense model",
            "largest difference",
            [("logits", difference["dense"]), ("layers, fp64", layers)],
        ),
        Card("export", "ONNX, OpenVINO IR", "largest logit difference", of_each(difference)),
        Card("validate", "a verdict for each", images, of_each(verdict)),
        Card("predict", "Intel CPU, no torch", "accuracy as deployed", of_each(accuracy)),
    ]


def drawn(card: Card, number: int) -> str:
    """A card, and the arrow that leads to it."""
    left = LEFT + number * (CARD + GAP)
    lines = [
        f'<path class="line" d="M{left - GAP + 4} {TOP + 34}h{GAP - 9}m-6 -6l6 6l-6 6"/>',
        f'<rect class="card" x="{left}" y="{TOP}" width="{CARD}" height="{TALL}" rx="10"/>',
        f'<text class="verb" x="{left + 16}" y="{TOP + 40}">{card.verb}</text>',
        f'<text x="{left + 16}" y="{TOP + 66}">{card.makes}</text>',
        f'<path stroke="currentColor" class="line" opacity=".35" d="M{left + 16} {TOP + 84}h{CARD - 32}"/>',
        f'<text class="dim" x="{left + 16}" y="{TOP + 106}">{card.about}</text>',
    ]
    for place, (name, value) in enumerate(card.figures):
        y = TOP + 134 + 26 * place
        kind = "figure good" if value.startswith("✓") else "figure"
        lines.append(f'<text x="{left + 16}" y="{y}">{name}</text>')
        lines.append(f'<text class="{kind}" x="{left + CARD - 16}" y="{y}">{value}</text>')
    return "\n".join(lines)


def main() -> None:
    """Draw the run in each theme."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of `ftx quickstart`")
    inside = "\n".join(drawn(card, number) for number, card in enumerate(cards(parser.parse_args().run)))
    for theme, colours in THEMES.items():
        lines = (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">',
            f"<style>\n{STYLE.format(**colours)}</style>\n{PICTURES}{inside}",
            f'<text class="dim" x="{LEFT}" y="{TOP + TALL + 28}">{CAPTION}</text>\n</svg>\n',
        )
        (IMAGES / f"pipeline-{theme}.svg").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
