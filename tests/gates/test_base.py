"""Training and merging refuse weights that they do not reach, or that are others than before; nothing stale is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from tests.conftest import write_data
from tests.gates.faults import Tensors, edit_json, edit_tensors, keep
from tests.zygote import Zygote

from ftx.core.errors import RunError
from ftx.core.files import sha256_file
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import ARTIFACTS
from ftx.runs.run import Run
from ftx.training import train

MODEL = "vit_tiny_patch16_224"


def weights(file: Path, change: Callable[[dict[str, object]], object] = lambda tensors: None) -> Path:
    tensors = {name: tensor.clone() for name, tensor in timm.create_model(MODEL, num_classes=0).state_dict().items()}
    change(tensors)
    save_file(tensors, file)
    return file


@pytest.mark.representative
def test_training_that_does_not_reach_a_layer_ends(tmp_path: Path, fresh_ftx: Zygote) -> None:
    data = write_data(tmp_path / "data", 6)
    # What block 3 attends to is multiplied by nothing: the answer does not depend on its q, k and v.
    file = weights(tmp_path / "dead.safetensors", lambda tensors: tensors["blocks.3.attn.proj.weight"].zero_())
    adapter = "--peft dora --targets q,v,fc1 --blocks all"
    words = f"train --data {data} --model {MODEL} --weights {file} --image-size 32 --epochs 1 {adapter}"
    done = fresh_ftx(*words.split(), "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "training must reach all adapters" in said
    assert "where: blocks.3.attn.qkv (q), blocks.3.attn.qkv (v) found: no gradient after the first step" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one epoch on weights from a file, and the file."""
    root = tmp_path_factory.mktemp("from_file")
    file = weights(root / "base.safetensors")
    settings = {"path": write_data(root / "data", 6), "name": MODEL, "weights": str(file), "image_size": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        report = train(Recipe.named({**settings, "epochs": 1, "precision": "f32", "blocks": 1}), out=root / "run")
    return Path(str(report.run)), file


@pytest.mark.slow
def test_a_base_with_one_other_value_is_another_base(from_file: tuple[Path, Path], fresh_ftx: Zygote) -> None:
    run, file = from_file
    whole = file.read_bytes()

    def last_value(tensors: Tensors) -> None:
        values = tensors["blocks.7.mlp.fc2.weight"]
        values[-1, -1] = np.nextafter(values[-1, -1], np.float32(9))

    edit_tensors(file, last_value)
    done = fresh_ftx("merge", run)
    assert done.returncode == 2, done.stderr
    assert "the base must be the one that the run was trained on" in done.stderr
    assert not (run / "dense").exists()
    file.write_bytes(whole)
    done = fresh_ftx("merge", run)
    assert done.returncode == 0, done.stderr


def test_everything_in_a_run_is_vouched_for(whole_run: Path) -> None:
    named = set(Run.open(whole_run).manifest.files)
    there = {path.relative_to(whole_run).as_posix() for path in whole_run.rglob("[!.]*") if path.is_file()}
    # proof.json is what a machine found out about an IR, and lies outside of the hashes.
    assert {name for name in there - named if not name.endswith("/proof.json")} == {"run.json"}
    assert named <= there


@pytest.mark.parametrize("part", ["first", "middle", "last"])
@pytest.mark.parametrize(
    ("name", "artifact"),
    [
        ("trained/adapter_model.safetensors", "trained"),
        ("trained/adapter_config.json", "openvino/fp32"),
        ("dense/model.safetensors", "openvino/fp32"),
        ("onnx/model.onnx", "onnx"),
        ("openvino/fp32/model.bin", "openvino/fp32"),
        ("openvino/fp32/card.json", "openvino/fp32"),
    ],
)
def test_one_byte_of_a_file_or_of_what_it_was_made_from_is_found(
    run: Path, name: str, artifact: str, part: str
) -> None:
    blob = bytearray((run / name).read_bytes())
    place = {"first": 0, "middle": len(blob) // 2, "last": len(blob) - 1}[part]
    blob[place] ^= 1
    (run / name).write_bytes(blob)
    with pytest.raises(RunError, match="has changed since ftx wrote it") as caught:
        Run.open(run).require(ARTIFACTS[artifact])
    assert str(caught.value.where) == str(run / name)


@pytest.mark.slow
def test_what_stands_on_another_training_is_stale_to_the_end(run: Path, fresh_ftx: Zygote) -> None:
    """An IR of the dense model of what was trained before: two steps away, its own files and parent's untouched."""
    keep(run, "openvino/fp32")
    edit_tensors(
        run / "trained" / "adapter_model.safetensors",
        lambda tensors: tensors["base_model.model.head.bias"].__iadd__(np.float32(1e-3)),
    )
    name = "trained/adapter_model.safetensors"
    edit_json(run / "run.json", lambda raw: raw["files"].update({name: sha256_file(run / name)}))
    for words in (["validate"], ["export", "--format", "openvino"], ["eval", "--artifact", "openvino/fp32"]):
        done = fresh_ftx(words[0], run, *words[1:])
        assert done.returncode == 2, (words, done.stderr)
        assert "dense/ is stale" in done.stderr
        assert "ftx merge" in done.stderr
    # By the folder's own name it is no other model.
    folder = run / "openvino" / "fp32"
    for words in (["validate", folder], ["predict", Run.open(run).manifest.data_root, "--artifact", folder]):
        done = fresh_ftx(*words)
        assert done.returncode == 2, (words, done.stderr)
        assert "dense/ is stale" in done.stderr
