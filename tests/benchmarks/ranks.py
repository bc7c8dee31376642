"""What a step of several processes consists of: ``python -m tests.benchmarks.ranks [OUT]``.

1, 2 and 4 processes, each of one thread, train DINOv2-small with DoRA on batches of 16 (all processes together). In
turns, step by step: whole steps, steps whose gradients are not exchanged, and in each the time that the fastest waits
for the slowest before gradients meet. Medians. Four processes on two cores tell what exchange costs, and nothing of
efficiency.

Writes OUT/ranks.json and OUT/ranks.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import torch
from torch.nn.functional import cross_entropy

from ftx.adapters.trainable_model import prepare
from ftx.backbones.split_network import full_model
from ftx.recipe.schema import Recipe
from ftx.runs.machine import this_machine
from ftx.training.device_placement import computes_bf16, place
from ftx.training.optimizer import optimizer
from ftx.training.ranks import Ranks, joined

BATCH, STEPS, SIZE = 16, 12, 112
WORLDS = (1, 2, 4)
METHODS = {"DoRA, rank 8": "dora", "all weights": "none"}


def worker(out: Path) -> None:
    """One process's measurement; the first writes what all found."""
    with joined() as ranks:
        torch.set_num_threads(1)
        found = {name: measured(ranks, peft) for name, peft in METHODS.items()}
        if ranks.leads:
            out.write_text(json.dumps(found))


def measured(ranks: Ranks, peft: str) -> dict[str, float]:
    """Milliseconds: of a step the longest in any process, of waiting the mean."""
    settings = {"name": "dinov2-small", "image_size": SIZE, "peft": peft, "blocks": "all", "path": "none"}
    prepared = prepare(Recipe.named(settings), 10)
    place(prepared, plain_attention=True)
    module = prepared.backbone.module.train()
    network, steps = ranks.together(full_model(module)), optimizer(module, 1e-4, 0.05)
    images_B3HW = torch.randn(BATCH // ranks.world, 3, SIZE, SIZE)
    labels_B = torch.arange(len(images_B3HW)) % 10
    bf16 = computes_bf16()

    def passes() -> float:
        steps.zero_grad(set_to_none=True)
        ranks.wait()
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits_BC = network(images_B3HW)
        cross_entropy(logits_BC.float(), labels_B).backward()
        return time.perf_counter() - began

    whole, alone, waited = list[float](), list[float](), list[float]()
    for _ in range(STEPS + 2):
        whole.append(passes())
        steps.step()
        with ranks.exchanging_later(network):
            alone.append(passes())
        began = time.perf_counter()
        ranks.wait()
        waited.append(time.perf_counter() - began)
    # The first two warm up.
    each = ranks.gathered([1000 * median(times[2:]) for times in (whole, alone, waited)])
    gradients = 4 * sum(one.numel() for one in module.parameters() if one.requires_grad)
    return {
        "step": max(step for step, _, _ in each),
        "computed": max(computed for _, computed, _ in each),
        "waited": mean(waits for _, _, waits in each),
        "gradient_bytes": gradients,
        # Of a ring, arXiv:1802.05799, section 3.
        "sent_bytes": round(2 * (ranks.world - 1) / ranks.world * gradients),
    }


def shown(cell: object) -> str:
    return f"{cell:.0f}" if isinstance(cell, float) else str(cell)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for world in WORLDS:
            answer = Path(folder) / f"{world}.json"
            launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world))
            subprocess.run(
                [sys.executable, *launcher, "-m", "tests.benchmarks.ranks", "--worker", str(answer)], check=True
            )
            for name, found in json.loads(answer.read_text()).items():
                exchanged = max(found["step"] - found["computed"], 0.0) if world > 1 else 0.0
                rows.append({"method": name, "processes": world, **found, "exchanged": exchanged})
    titles = ("method", "processes", "step", "computed", "exchanged", "waited", "gradient_bytes", "sent_bytes")
    cells = [
        [f"{row[title]:.0f}" if isinstance(row[title], float) else str(row[title]) for title in titles] for row in rows
    ]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [list(titles), ["---"] * len(titles), *cells])
    print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        said = {"machine": this_machine().model_dump(mode="json"), "size": SIZE, "batch": BATCH, "rows": rows}
        (out / "ranks.json").write_text(json.dumps(said, indent=2) + "\n")
        (out / "ranks.md").write_text(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
