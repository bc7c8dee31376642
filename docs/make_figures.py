"""Draw the diagrams of the pages: docs/images/{verdict-interval,server-and-device,run-folder,adapter-block}.svg.

python docs/make_figures.py             # these four
python docs/make_figures.py RUN         # also precisions.svg, from the reports of a run
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from ftx.core.statistics import PairedCounts, points_up
from ftx.evaluating import ParityReport
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import MAX_DROP
from ftx.runs.parity_json import latency_rows

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH = 760

STYLE = """\
text { font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
.bold { font-weight: 600; }
.dim { font-size: 13px; fill: #59636e; }
.code { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #0550ae; }
.middle { text-anchor: middle; }
.paper { fill: #ffffff; stroke: #d0d7de; }
.box { fill: #f6f8fa; stroke: #8c959f; }
.blue { fill: #ddf4ff; stroke: #0969da; }
.orange { fill: #fff1e5; stroke: #bc4c00; }
.line { stroke: #59636e; stroke-width: 2; fill: none; }
.good { stroke: #116329; fill: #116329; }
.unsure { stroke: #7d4e00; fill: #7d4e00; }
.bad { stroke: #a40e26; fill: #a40e26; }
text.good, text.unsure, text.bad { stroke: none; font-weight: 600; }
.wide { stroke-width: 5; }
.margin { stroke: #a40e26; stroke-width: 2; stroke-dasharray: 6 4; }
"""
ARROW = (
    '<marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
)
ARROW += '<path d="M0 0L10 5L0 10z" fill="#59636e"/></marker>'


def write(name: str, height: int, parts: Iterable[str]) -> None:
    """Write a picture on white paper, which both themes of the site can show."""
    inside = "\n".join(parts)
    paper = f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" xmlns="http://www.w3.org/2000/svg">'
    drawn = f"{head}\n<style>\n{STYLE}</style>\n<defs>{ARROW}</defs>\n{paper}\n{inside}\n</svg>\n"
    (IMAGES / f"{name}.svg").write_text(drawn, encoding="utf-8")


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    """A rectangle with round corners."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>'


def labelled(x: float, y: float, width: float, height: float, words: str, kind: str = "box", font: str = "") -> str:
    """A rectangle with its text in the middle."""
    return box(x, y, width, height, kind) + text(x + width / 2, y + height / 2 + 5, words, f"middle {font}")


def arrow(path: str) -> str:
    """A line that ends in an arrow."""
    return f'<path class="line" marker-end="url(#a)" d="{path}"/>'


def verdict_interval() -> None:
    """Three models against the margin, with the interval that ``ftx validate`` computes."""
    left, right, low, high = 200, 560, -1.5, 8.0
    cases = [
        ("verified", "good", PairedCounts(3, 2, 500)),
        ("unproved", "unsure", PairedCounts(1, 0, 100)),
        ("failed", "bad", PairedCounts(34, 8, 500)),
    ]

    def x(points: float) -> float:
        return left + (points - low) / (high - low) * (right - left)

    margin = 100 * MAX_DROP
    parts = [text(24, 34, "How many points of accuracy the int8 model loses", "bold")]
    for row, (name, kind, counts) in enumerate(cases):
        y = 84 + 56 * row
        least, most = (100 * end(0.95) for end in (counts.drop_at_least, counts.drop_at_most))
        found = {
            "verified": f"at most {points_up(most / 100)} lost",
            "unproved": f"perhaps {points_up(most / 100)} lost",
            "failed": f"at least {least:.1f} lost",
        }[name]
        parts += [
            text(24, y + 1, name, kind),
            text(24, y + 19, f"{counts.units} test images", "dim"),
            f'<path class="line wide {kind}" d="M{x(max(least, low)):.1f} {y}H{x(min(most, high)):.1f}"/>',
            f'<circle class="{kind}" cx="{x(100 * counts.drop):.1f}" cy="{y}" r="7"/>',
            text(right + 24, y + 5, found),
        ]
    bottom = 84 + 56 * len(cases)
    parts += [
        f'<path class="margin" d="M{x(margin):.1f} 52V{bottom - 14}"/>',
        text(x(margin) + 8, 62, f"margin: {margin:g} points", "bad"),
        f'<path class="line" d="M{left} {bottom - 14}H{right}"/>',
        *(text(x(points), bottom + 6, f"{points:g}", "dim middle") for points in range(-1, 9)),
        text((left + right) / 2, bottom + 28, "points lost", "dim middle"),
        text(24, bottom + 28, "● measured   ▬ limits (95 %)", "dim"),
    ]
    write("verdict-interval", bottom + 46, parts)


def server_and_device() -> None:
    """What goes from the server to the device, and how often."""
    parts = [
        box(20, 20, 270, 250),
        text(40, 50, "Server", "bold"),
        text(40, 70, "with PyTorch", "dim"),
        labelled(40, 86, 230, 34, "ftx train", "blue", "code"),
        labelled(40, 146, 230, 34, "ftx export --base DIR", "blue", "code"),
        labelled(40, 206, 230, 34, "ftx export --as-update FILE", "blue", "code"),
        arrow("M155 120V143"),
        arrow("M155 180V203"),
        box(490, 20, 250, 250),
        text(510, 50, "Device", "bold"),
        text(510, 70, "without PyTorch", "dim"),
        labelled(510, 146, 210, 34, "base model"),
        labelled(510, 206, 210, 34, "ftx apply", "blue", "code"),
        arrow("M615 180V203"),
        text(510, 260, "writes and checks the new model", "dim"),
        arrow("M274 163H506"),
        text(390, 152, "base model, once", "bold middle"),
        arrow("M274 223H506"),
        text(390, 212, "update, each time", "bold middle"),
        text(390, 244, "adapter, head and", "dim middle"),
        text(390, 261, "outputs to compare with", "dim middle"),
    ]
    write("server-and-device", 290, parts)


def run_folder() -> None:
    """What each command adds to the run folder, and from what it makes it."""
    columns = [(24, "ftx train"), (214, "ftx merge"), (404, "ftx export"), (594, "ftx validate")]
    parts = [text(x + 71, 40, command, "code middle") for x, command in columns]
    parts += [
        labelled(24, 60, 142, 40, "recipe.yaml"),
        labelled(24, 110, 142, 40, "data.jsonl"),
        labelled(24, 160, 142, 40, "trained/", "blue"),
        labelled(214, 160, 142, 40, "dense/", "blue"),
        labelled(404, 110, 142, 40, "onnx/", "blue"),
        labelled(404, 160, 142, 40, "openvino/fp32/", "blue"),
        labelled(404, 210, 142, 40, "openvino/int8/", "blue"),
        labelled(594, 160, 142, 40, "proof.json"),
        labelled(594, 210, 142, 40, "reports/parity.json"),
        arrow("M166 180H211"),
        arrow("M356 180H401"),
        arrow("M356 180C380 180 380 130 401 130"),
        arrow("M356 180C380 180 380 230 401 230"),
        arrow("M546 180H591"),
        arrow("M546 230C570 230 570 184 591 184"),
        box(24, 280, 712, 44, "orange"),
        text(40, 307, "run.json", "bold"),
        text(120, 307, "the hash of each file, and what it was made from: a model from older files is stale", "dim"),
    ]
    write("run-folder", 344, parts)


def adapter_block() -> None:
    """A block of a Vision Transformer with its six linear layers, and the adapter of one of them."""
    parts = [text(24, 36, "One block", "bold"), text(430, 36, "One linear layer with its adapter", "bold")]
    y = 60
    for words, kind in (
        ("norm1", "box"),
        ("q   k   v", "blue"),
        ("attention", "box"),
        ("proj", "blue"),
        ("norm2", "box"),
        ("fc1", "blue"),
        ("GELU", "box"),
        ("fc2", "blue"),
    ):
        y += 18 if words == "norm2" else 0
        parts.append(labelled(90, y, 180, 30, words, kind))
        if words not in ("norm1", "norm2"):
            parts.append(arrow(f"M180 {y - 10}V{y - 1}"))
        y += 40
    middle, bottom = 60 + 4 * 40 + 2, y + 2
    parts.append(arrow("M180 48V59"))
    for start, end in ((50, middle), (middle, bottom)):
        parts.append(f'<path class="line" d="M180 {start}H56V{end}"/>')
        parts.append(arrow(f"M56 {end}H168"))
        parts.append(f'<circle class="box" cx="180" cy="{end}" r="9"/>' + text(180, end + 5, "+", "middle bold"))
    parts += [
        labelled(460, 110, 90, 150, "W", "box", "bold"),
        text(505, 280, "frozen", "dim middle"),
        labelled(610, 110, 100, 44, "A  (r x n)", "orange"),
        labelled(610, 216, 100, 44, "B  (m x r)", "orange"),
        text(660, 280, "trained", "dim middle"),
        arrow("M660 154V213"),
        text(582, 84, "x", "bold middle"),
        '<path class="line" d="M582 90V98"/>',
        arrow("M582 98H505V107"),
        arrow("M582 98H660V107"),
        '<path class="line" d="M505 292V316H574M660 292V316H590"/>',
        '<circle class="box" cx="582" cy="316" r="9"/>' + text(582, 321, "+", "middle bold"),
        text(582, 352, "LoRA:  y = W x + (alpha / r) B A x", "middle"),
        text(582, 376, "DoRA also trains the length of each row", "dim middle"),
    ]
    parts += [
        box(24, bottom + 24, 16, 16, "blue"),
        text(48, bottom + 37, "linear layers, which can have an adapter", "dim"),
    ]
    write("adapter-block", bottom + 56, parts)


def precisions(run: Path) -> None:
    """Accuracy, size and time of each precision of a run."""
    parity = ParityReport.model_validate_json((run / "reports" / "parity.json").read_text(encoding="utf-8"))
    rows = {row.artifact.removeprefix("openvino/"): row for row in parity.rows if row.view == "files"}
    times = {row.artifact.removeprefix("openvino/"): row.latency_ms for row in latency_rows(parity.rows)}
    names = [name for name in ("fp32", "fp16", "int8") if name in rows]
    folders = {name: (run / "openvino" / name).iterdir() for name in names}
    megabytes = {name: sum(path.stat().st_size for path in files) / 1e6 for name, files in folders.items()}
    accuracy = {name: 100 * (rows[name].accuracy or 0) for name in names}
    milliseconds = {name: times[name] for name in names}
    panels = [("Accuracy, %", accuracy, "{:.1f}"), ("Size, MB", megabytes, "{:.0f}")]
    panels.append(("Time per image, ms", milliseconds, "{:.1f}"))
    parts = []
    for panel, (title, values, form) in enumerate(panels):
        left, wide = 24 + 245 * panel, 130
        parts.append(text(left, 38, title, "bold"))
        for row, name in enumerate(names):
            y = 58 + 36 * row
            parts += [
                text(left, y + 17, name, "code"),
                box(left + 48, y, wide * values[name] / max(values.values()), 24, "blue"),
                text(left + 56 + wide * values[name] / max(values.values()), y + 17, form.format(values[name])),
            ]
    size = Recipe.load(run / "recipe.yaml").data.image_size
    instructions = parity.machine.instructions[0].upper().replace("_", "-")
    made = f"DINOv2-small at {size} px, {rows[names[0]].images} test images, two cores of a CPU with {instructions}"
    parts.append(text(24, 196, made, "dim"))
    write("precisions", 214, parts)


def main() -> None:
    """Draw the diagrams, and the precisions of a run if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run with the precisions fp32, fp16 and int8, verified")
    run = parser.parse_args().run
    for draw in (verdict_interval, server_and_device, run_folder, adapter_block):
        draw()
    if run is not None:
        precisions(run)


if __name__ == "__main__":
    main()
