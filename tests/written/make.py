"""Makes the fixtures of a schema version: ``python -m tests.written.make v1``, ``… v1 edge`` and ``… v2 verdicts``.

A run of each method and task, one of them taken all the way, and what each answered. They are made once, by the program
that first writes a schema, and never again: that a later one opens them is what the tests beside this file hold.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent
TASKS = ("multiclass", "multilabel", "hierarchical")
LABELS = {
    "multiclass": ("red", "green", "blue"),
    "multilabel": ("red;warm", "green", "blue", ""),
    "hierarchical": ("warm/red;wet", "cold/green", "cold/blue", "warm/pink"),
}
METHODS: dict[str, dict[str, object]] = {
    "lora": {"model.peft": "lora", "adapter.blocks": 2, "train.lora_plus": 4.0},
    "dora": {"model.peft": "dora", "adapter.targets": "q,fc1", "adapter.rank": "q=2,fc1=3"},
    "linear": {"model.peft": "none", "model.freeze_backbone": "true"},
    "full": {"model.peft": "none"},
}
# What else an adapter may be: factors that started as a part of the weight, another scaling, dropout.
KINDS: dict[str, dict[str, object]] = {
    "multiclass-lora": {"adapter.init": "pissa", "adapter.rank": 2},
    "multilabel-lora": {"adapter.rslora": "true", "adapter.rank": 3, "adapter.alpha": "attn=4,mlp=6"},
    "hierarchical-dora": {"adapter.dropout": 0.1},
}
WHOLE = "multiclass-dora"


def images(folder: Path) -> list[str]:
    """Small pictures of two colours in blocks."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names: list[str] = []
    for number in range(32):
        small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        small[..., number % 3] //= 4
        Image.fromarray(small).resize((40, 30), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        names.append(f"{folder.name}/{number}.png")
    return names


def weights(architecture: str, file: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model(architecture, num_classes=0)
    save_file({name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}, file)


def recipes() -> Iterator[tuple[str, dict[str, object]]]:
    for task in TASKS:
        for method, keys in METHODS.items():
            architecture = "test_efficientnet" if method == "full" else "test_vit"
            common = {
                "task": task,
                "data.path": f"{task}.csv",
                "data.image_size": 32,
                "model.name": architecture,
                "model.weights": f"{architecture}.safetensors",
                "train.epochs": 2,
                "train.batch_size": 8,
                "train.precision": "f32",
                "train.lr": 0.01,
            }
            name = f"{task}-{method}"
            yield name, {**common, **keys, **KINDS.get(name, {})}


def main(version: str) -> None:
    import ftx
    from ftx import Recipe, Run, export, merge, train, validate
    from ftx.runtimes import load_artifact

    folder = HERE / version
    folder.mkdir()
    os.chdir(folder)
    torch.set_num_threads(1)
    names = images(Path("images"))
    for task, labels in LABELS.items():
        sides = ["train"] * 20 + ["val"] * 4 + ["test"] * 8
        lines = [f"{name},{labels[number % len(labels)]},{sides[number]}" for number, name in enumerate(names)]
        Path(f"{task}.csv").write_text("\n".join(["path,labels,split", *lines]) + "\n")
    for architecture in ("test_vit", "test_efficientnet"):
        weights(architecture, Path(f"{architecture}.safetensors"))
    answers: dict[str, torch.Tensor] = {}
    for name, keys in recipes():
        run = Run.open(train(Recipe.build(flags=keys), Path(name)).run)
        if name == WHOLE:
            merge(run)
            export(run, formats=("onnx", "openvino"), precisions=("fp32", "fp16", "int8"))
            validate(run)
        paths = [Path(one) for one in names[-8:]]
        for artifact in run.artifacts():
            rows = list(load_artifact(run, artifact, compute="f32").logits_from_files(paths))
            answers[f"{name}/{artifact}"] = torch.from_numpy(np.stack([np.asarray(row) for row in rows]))
    save_file(answers, "answers.safetensors", metadata={"ftx": ftx.__version__})
    shutil.rmtree("runs", ignore_errors=True)
    for lock in Path().rglob(".ftx-lock"):
        lock.unlink()


def edge(version: str) -> None:
    """What the edge reads, of the run of a schema version that was taken all the way: ``…make v1 edge``."""
    from ftx import Run, export
    from ftx.evaluating.bench import BenchOptions, bench
    from ftx.exporting.base_ir import export_base, export_update

    folder = HERE / f"{version}-edge"
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(HERE / version, Path(scratch) / version)
        os.chdir(Path(scratch) / version)
        torch.set_num_threads(1)
        run = Run.open(WHOLE)
        export_base(run, folder / "base")
        export_update(run, folder / "update.zip", folder / "base")
        export(run, formats=("openvino",), precisions=("int8",))
        report = bench(run.path / "openvino" / "fp32", BenchOptions(save=True, seconds=0.2))
        (folder / "bench.json").write_text(report.model_dump_json(indent=2) + "\n")
        shutil.copy(run.path / "openvino" / "fp32" / "tuning.json", folder)
        shutil.copy(run.path / "reports" / "quantize.json", folder)


def verdicts(version: str) -> None:
    """What ``ftx validate`` writes into the run of version 1 that was taken all the way: ``… make v2 verdicts``."""
    from ftx import validate

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(HERE / "v1", scratch, dirs_exist_ok=True)
        os.chdir(scratch)
        torch.set_num_threads(1)
        validate(Path(WHOLE))
        for name in ("reports/parity.json", "openvino/fp32/proof.json"):
            target = HERE / version / WHOLE / name
            target.parent.mkdir(parents=True)
            shutil.copy(Path(WHOLE, name), target)


if __name__ == "__main__":
    {"": main, "edge": edge, "verdicts": verdicts}["".join(sys.argv[2:])](sys.argv[1])
