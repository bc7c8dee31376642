"""``ftx merge --adapter`` and ``ftx adapters`` as a person calls them: statuses, what is printed, and idle flags."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from tests.conftest import write_data

from ftx.cli.app import run
from ftx.recipe.schema import Recipe
from ftx.training import train

SETTINGS = {
    "name": "vit_tiny_patch16_224",
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "precision": "f32",
    "blocks": 1,
    "rank": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs of one base."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("two runs")
    data = write_data(root / "data", 4)
    with chdir(root):
        for name, peft in (("a", "dora"), ("b", "lora")):
            train(Recipe.named({**SETTINGS, "path": data, "peft": peft}), out=root / "runs" / name)
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_two_runs_become_a_folder_that_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "--adapter", "runs/a", "--adapter", "runs/b/trained", "--shares", "0.7,0.3"]
    assert run([*words, "--out", str(tmp_path / "m")]) == 0
    printed = capsys.readouterr()
    assert "0.7 x runs/a + 0.3 x runs/b/trained" in printed.out
    assert "of the base with the adapters unmerged" in printed.out
    assert f"ftx predict IMAGES --artifact {tmp_path / 'm'}" in printed.err
    assert run(["predict", "data/blue/0.png", "--artifact", str(tmp_path / "m")]) == 0
    assert "data/blue/0.png" in capsys.readouterr().out
    assert run([*words, "--out", str(tmp_path / "m")]) == 2
    assert "must not exist yet" in capsys.readouterr().err


def test_a_backbone_alone_names_the_way_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", "--adapter", "runs/a", "--no-head", "--out", str(tmp_path / "m")]) == 0
    weights = f"--weights {tmp_path / 'm'}/model.safetensors"
    said = f"ftx train --model vit_tiny_patch16_224 {weights} --image-size 32 --method linear"
    assert said in capsys.readouterr().err
    words = ["train", "--data", "data", "--model", "vit_tiny_patch16_224", *weights.split(), "--freeze-backbone"]
    assert run([*words, "--image-size", "32", "--dry-run"]) == 0


def test_adapters_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["adapters"]) == 0
    out = capfd.readouterr().out
    assert "runs/a" in out
    assert "runs/b" in out
    assert "blocks.N.attn.qkv" in out
    assert run(["adapters", "runs/a", "runs/b", "--layers"]) == 0
    assert "blocks.11.attn.qkv" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge", "runs/a", "--shares", "1"], "--shares is only for --adapter"),
        (["merge", "runs/a", "--combine", "ties", "--density", "0.5"], "--combine, --density is only for --adapter"),
        (["merge", "--adapter", "runs/a", "--data", "data"], "--data cannot be combined with --adapter"),
        (["merge", "runs/a", "--adapter", "runs/b"], "a run cannot be combined with --adapter"),
        (["merge", "--adapter", "runs/a", "--combine", "tise"], "--combine must be one of"),
        (["merge", "--adapter", "runs/a", "--density", "0.5"], "--density is only for --combine ties"),
        (["merge", "--adapter", "runs/a", "--shares", "a,b"], "--shares must be numbers"),
        (["merge", "--adapter", "runs/a", "--shares", ","], "--shares must be numbers"),
        (["merge", "--adapter", "runs/a", "--image-size", "64"], "--weights and --image-size must be used with --base"),
        (["merge", "--adapter", "runs/a", "--base", "dinov2-small", "--image-size", "5x"], "--image-size must be"),
        (["merge", "--adapter", "runs/a", "--base", "vit_tniy"], "fix: run again with --base "),
        (["merge", "--adapter", "runs/a", "--labels", "no/such.txt"], "--labels: the file cannot be read"),
        (["merge", "--adapter", "nowhere"], "the adapter does not exist"),
        (["merge", "--adapter", "data/blue/0.png"], "an adapter must be a folder, this is a file"),
        (["merge", "--adapter", "data"], "the folder must be an adapter"),
        (["adapters", "data"], "the folder must be an adapter"),
    ],
)
def test_one_clear_error(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert said in capsys.readouterr().err
    assert not Path("merged").exists()


@pytest.mark.slow
def test_json_is_all_that_stdout_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    program = "import sys; from ftx.cli.app import run; sys.exit(run(sys.argv[1:]))"
    words = ["merge", "--adapter", "runs/a", "--json", "--out", str(tmp_path / "m")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["verb"] == "merge"
    assert answer["architecture"] == "vit_tiny_patch16_224"
    assert json.loads((tmp_path / "m" / "merge.json").read_text()) == answer
