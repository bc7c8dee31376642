"""Flags that do not go together end with status 2 and one error, before anything is done."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from tests.effects.lab import call

WRITTEN = Path(__file__).parents[1] / "written" / "v1" / "multiclass-dora"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, named RUN below, and its IR in fp32, named IR."""
    root = tmp_path_factory.mktemp("misuse")
    shutil.copytree(WRITTEN, root / "RUN")
    shutil.copytree(WRITTEN / "openvino" / "fp32", root / "IR")
    shutil.copytree(WRITTEN / "openvino" / "fp32", root / "HALF")
    (root / "HALF" / "card.json").unlink()
    return root


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("apply --rollback IR update", "--rollback takes nothing else"),
        ("apply --rollback IR --labels a,b", "--rollback takes nothing else"),
        ("apply", "an update, its base and the model to write are needed"),
        ("apply update", "an update, its base and the model to write are needed"),
        ("apply update IR", "an update, its base and the model to write are needed"),
        ("bench RUN --compute f23", "unknown compute precision"),
        ("bench RUN --precision int7", "unknown precision 'int7'"),
        ("bench HALF", "there is no model here to time"),
        ("explain - --artifact IR", "standard input is for ftx predict"),
        ("export RUN --base b --format onnx", "a base and updates are OpenVINO's"),
        ("export RUN --base b --as-update u --precision fp16", "an update has the precision of its base"),
        ("export RUN --base b --recover", "--recover is for int8, and no update is"),
        ("export RUN --base b --explain", "--explain is for models"),
        ("export RUN --as-update u", "an update is of a base that devices have"),
        ("export RUN --base b --after u", "--after is for an update"),
        ("export RUN --base b --precision int8", "a base is in fp32 or fp16"),
        ("export RUN --base b --precision fp32 --precision fp16", "a base is in fp32 or fp16"),
        ("export RUN --format ovms --format onnx", "ovms is made of IRs that the run holds"),
        ("export RUN --format ovms --recover", "ovms is made of IRs that the run holds"),
        ("export RUN --format ovms --explain", "ovms is made of IRs that the run holds"),
        ("export RUN --format ovms --data .", "ovms is made of IRs, and needs no image"),
        ("export RUN --out o", "models go into their run"),
        ("export RUN --format onyx", "unknown format"),
        ("predict --artifact IR", "there is nothing to predict"),
        ("predict a.png --watch . --artifact IR", "--watch labels what arrives in its folder, and takes no images"),
        ("predict - a.png --artifact IR", "- is standard input, and takes no other paths"),
        ("predict a.png --artifact IR --format jsonl", "is for a file of predictions"),
        ("predict a.png --artifact IR --engine ray", "is for a file of predictions"),
        ("predict a.png --artifact IR --workers 2", "is for a file of predictions"),
        ("predict --watch . --out a.jsonl --artifact IR", "--watch has no end"),
        ("predict a.png --out a.txt --artifact IR", "no format is known by the ending .txt"),
        ("predict a.png --out a.jsonl --format xml --artifact IR", "unknown --format"),
        ("predict a.png --out a.jsonl --workers 2 --artifact IR", "--address and --workers are for --engine ray"),
        ("train --from RUN --config x.yaml", "--from takes the recipe of its run"),
        ("train --from RUN --preset fast", "--from takes the recipe of its run"),
        ("train --resume RUN --from RUN", "--from: cannot be combined with --resume"),
        ("train --resume RUN --out o --strict", "--out, --strict: cannot be combined with --resume"),
        ("train --data . --preset slow", "unknown --preset"),
        ("tune quickstart-multiclass --data . --objective latency", "--objective must include metric"),
        ("tune quickstart-multiclass --data . --objective size", "unknown objective"),
        ("merge RUN --adapter RUN", "a run and --adapter are given"),
        ("merge RUN --shares 1", "--shares: only with --adapter"),
        ("merge --adapter RUN --data .", "--data: only with a run"),
        ("merge --adapter RUN --combine mean", "unknown --combine"),
        ("merge --adapter RUN --density 0.5", "--density is of TIES"),
        ("merge --adapter RUN --shares x", "--shares must be numbers"),
        ("merge --adapter RUN --image-size x", "--image-size must be"),
        ("validate IR --data .", "an exported folder is validated on its own reference images"),
        ("validate IR --images 3", "an exported folder is validated on its own reference images"),
        ("validate HALF", "this exported folder is not whole"),
        ("validate RUN --max-drop 0", "--max-drop 0 is no margin"),
        ("validate RUN --max-drop 1", "--max-drop 1 is no margin"),
        ("validate RUN --bound int8.graph.max_abs", "is not KEY=VALUE with a number"),
        ("validate RUN --isa sse", "unknown instruction set"),
        ("serve IR --name a --name b", "there are more names than models"),
        ("serve IR --host nowhere.invalid --port 0", "there is no such host"),
        ("serve IR --host 203.0.113.7 --port 0", "this machine has no such address"),
    ],
)
def test_what_does_not_go_together_is_one_error(words: str, what: str, here: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    with chdir(here):
        said = call(*words.split())
    assert said.status == 2, said.err
    assert said.err.startswith("error: ") or "\nerror: " in said.err
    assert what in " ".join(said.err.split())
    assert "fix: " in said.err
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
