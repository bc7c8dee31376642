"""Kills training at random and lets it go on: ``python -m tests.benchmarks.resume kills 60``, ``writes 200``, ``cost``.

kills: SIGKILL at a random moment, or several times, over methods and tasks; the bytes of ``trained/`` against those of
a training that nobody stopped. writes: SIGKILL while checkpoints are written one after the other; whether one can be
read. cost: the share of a training's time that its checkpoints take.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ftx.core.progress import SILENT
from ftx.data.bundled_sample import place_sample
from ftx.recipe.schema import Recipe
from ftx.runs.new_run import NewRun
from ftx.training import resume, train
from ftx.training.checkpoints import Checkpoints, Origin, newest
from ftx.training.device_placement import Circumstances
from ftx.training.optimizer import optimizer
from ftx.training.state import TrainingState

METHODS: dict[str, dict[str, object]] = {
    "lora": {"peft": "lora", "rank": 2, "dropout": 0.1},
    "dora": {"peft": "dora", "rank": 2},
    "dora, kept features": {"peft": "dora", "rank": 2, "blocks": 2},
    "pissa": {"peft": "lora", "rank": 2, "init": "pissa"},
    "linear": {"peft": "none", "freeze_backbone": True, "balance": "sampling"},
    "full": {"peft": "none", "name": "test_efficientnet", "image_size": 64},
}
LABELS = {
    "multiclass": ("one", "two"),
    "multilabel": ("one;two", "two", "", "one"),
    "hierarchical": ("one/of one", "two", "one/of two", "two"),
}
# Checkpoints as often as this, so that a kill has something to go on with in trainings of a few seconds.
MINUTES = 0.002


def in_child(work: Callable[[], object], killed_after_s: float | None = None) -> int:
    """Do the work in a process of its own; its status, negative where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
    if killed_after_s is not None:
        time.sleep(killed_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_data(root: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{number}.png")
    for task, labels in LABELS.items():
        lines = [f"{number}.png,{labels[number % len(labels)]}\n" for number in range(40)]
        (root / f"{task}.csv").write_text("path,labels\n" + "".join(lines))


def trained(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "trained").iterdir())}


def kills(count: int) -> None:
    """Each way of training in turn, until so many kills hit one that was running."""
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "epochs": 8, "batch_size": 5, "precision": "f32"}
    ways = [(method, task) for method in METHODS for task in LABELS]
    rng = random.Random(0)
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_data(Path())
        expected: dict[tuple[str, str], tuple[dict[str, bytes], float]] = {}
        for number, (method, task) in enumerate(ways * (1 + 2 * count // len(ways))):
            if done["kills"] >= count:
                break
            recipe = Recipe.named(
                {"augment": "light", "patch_dropout": 0.0}
                | {"path": f"{task}.csv", "task": task, "checkpoint_minutes": MINUTES, **tiny, **METHODS[method]}
            )
            if (method, task) not in expected:
                whole, started = Path(f"whole-{number}"), time.monotonic()
                assert in_child(lambda recipe=recipe, whole=whole: train(recipe, whole)) == 0
                expected[method, task] = trained(whole), time.monotonic() - started
            files, seconds = expected[method, task]
            run = Path(f"run-{number}")
            while not (run / "run.json").exists():
                begun = run.exists()
                work = (lambda run=run: resume(run)) if begun else (lambda recipe=recipe, run=run: train(recipe, run))
                limit = rng.uniform(0.3, 1.0) * seconds if rng.random() < 0.8 else None
                status = in_child(work, limit)
                assert status in (0, -signal.SIGKILL), status
                done["kills"] += status == -signal.SIGKILL
                done["resumed"] += begun
            same = trained(run) == files
            done["the same bytes" if same else "OTHER BYTES"] += 1
            print(f"{number + 1}: {method}, {task}: {'the same' if same else 'OTHER'} ({dict(done)})", flush=True)


def origin() -> Origin:
    circumstances = Circumstances(device="cpu", threads=1, plain_attention=True)
    return Origin(recipe=Recipe(), data_sha256="0", base_digest="0", circumstances=circumstances)


def writes(count: int) -> None:
    """A state of 4 million numbers, written again and again."""
    rng, read, damaged = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)

        def write() -> None:
            module = nn.Linear(1024, 1024)
            state = TrainingState(module, optimizer(module, 1e-3, 0.0))
            module(torch.ones(1, 1024)).sum().backward()
            state.optimizer.step()
            checkpoints = Checkpoints(NewRun(run, run, shown=True), origin())
            steps = [int(path.stem) for path in (run / "checkpoints").glob("*.json")]
            state.position.step = max(steps, default=0)
            while True:
                state.position.step += 1
                checkpoints.write(state)

        while read + damaged < count:
            in_child(write, rng.uniform(0.1, 0.5))
            if not list((run / "checkpoints").glob("*.json")):
                continue  # killed before there was one
            try:
                newest(run, SILENT)
                read += 1
            except Exception as error:
                damaged += 1
                print(error)
    print(f"{count} kills during writes: {read} could be read, {damaged} could not")


def cost() -> None:
    """By the quickstart's recipe, and by linear probing, whose epochs are the shortest."""
    spent: list[float] = []
    write = Checkpoints.write

    def timed(self: Checkpoints, state: TrainingState) -> None:
        started = time.perf_counter()
        write(self, state)
        spent.append(time.perf_counter() - started)

    Checkpoints.write = timed
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        data = place_sample("multiclass", Path())
        for name, keys in (
            ("dora", {"epochs": 3, "blocks": "all", "augment": "light", "patch_dropout": 0.0}),
            ("linear", {"peft": "none", "freeze_backbone": True, "head_init": "random", "epochs": 60}),
        ):
            spent.clear()
            recipe = Recipe.named({"path": data, "image_size": 112, "patience": 60, **keys})
            report = train(recipe, Path(name))
            print(
                f"{name}: {len(spent)} checkpoints of {np.median(spent) * 1000:.1f} ms in {report.epochs} epochs and "
                f"{report.seconds:.1f} s: {sum(spent) / report.seconds:.2%}"
            )


if __name__ == "__main__":
    what, *number = sys.argv[1:]
    {"kills": lambda: kills(int(number[0])), "writes": lambda: writes(int(number[0])), "cost": cost}[what]()
