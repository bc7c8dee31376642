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
        ("apply --rollback IR update", "--rollback must be used without UPDATE, BASE and --labels"),
        ("apply --rollback IR --labels a,b", "--rollback must be used without UPDATE, BASE and --labels"),
        ("apply", "ftx apply needs an update, its base, and the model to write"),
        ("apply update", "ftx apply needs an update, its base, and the model to write"),
        ("apply update IR", "ftx apply needs an update, its base, and the model to write"),
        ("bench RUN --compute f23", "--compute must be one of"),
        ("bench RUN --precision int7", "--precision must be one of"),
        ("bench HALF", "there is no model here to measure"),
        ("explain - --artifact IR", "IMAGES must be images, folders or patterns, not standard input"),
        ("export RUN --base b --format onnx", "--format cannot be combined with --base"),
        ("export RUN --base b --as-update u --precision fp16", "an update has the precision of its base"),
        ("export RUN --base b --recover", "--recover is only for int8"),
        ("export RUN --base b --explain", "--explain cannot be combined with --base"),
        ("export RUN --as-update u", "an update needs the base that the devices have"),
        ("export RUN --base b --after u", "--after is only for an update"),
        ("export RUN --base b --precision int8", "--base must be fp32 or fp16"),
        ("export RUN --base b --precision fp32 --precision fp16", "--base must be fp32 or fp16"),
        ("export RUN --format ovms --format onnx", "--format ovms cannot be combined with other formats"),
        ("export RUN --format ovms --recover", "--recover cannot be combined with --format ovms"),
        ("export RUN --format ovms --explain", "--explain cannot be combined with --format ovms"),
        ("export RUN --format ovms --data .", "--data must not be given with --format ovms"),
        ("export RUN --out o", "models go into their run"),
        ("export RUN --format onyx", "format must be one of"),
        ("predict --artifact IR", "there are no images to predict"),
        ("predict a.png --watch . --artifact IR", "--watch cannot be combined with IMAGES"),
        ("predict - a.png --artifact IR", "- (standard input) cannot be combined with other paths"),
        ("predict a.png --artifact IR --format jsonl", "is only for a file of predictions"),
        ("predict a.png --artifact IR --engine ray", "is only for a file of predictions"),
        ("predict a.png --artifact IR --workers 2", "is only for a file of predictions"),
        ("predict --watch . --out a.jsonl --artifact IR", "--out cannot be combined with --watch"),
        ("predict a.png --out a.txt --artifact IR", "--out must end with .jsonl or .parquet"),
        ("predict a.png --out a.jsonl --format xml --artifact IR", "--format must be one of"),
        ("predict a.png --out a.jsonl --workers 2 --artifact IR", "--address and --workers are only for --engine ray"),
        ("train --from RUN --config x.yaml", "--from cannot be combined with --config or --preset"),
        ("train --from RUN --preset fast", "--from cannot be combined with --config or --preset"),
        ("train --resume RUN --from RUN", "--from cannot be combined with --resume"),
        ("train --resume RUN --out o --strict", "--out, --strict cannot be combined with --resume"),
        ("train --data . --preset slow", "--preset must be one of"),
        ("tune quickstart-multiclass --data . --objective latency", "--objective must include metric"),
        ("tune quickstart-multiclass --data . --objective size", "objective must be one of"),
        ("merge RUN --adapter RUN", "a run cannot be combined with --adapter"),
        ("merge RUN --shares 1", "--shares is only for --adapter"),
        ("merge --adapter RUN --data .", "--data cannot be combined with --adapter"),
        ("merge --adapter RUN --combine mean", "--combine must be one of"),
        ("merge --adapter RUN --density 0.5", "--density is only for --combine ties"),
        ("merge --adapter RUN --shares x", "--shares must be numbers"),
        ("merge --adapter RUN --image-size x", "--image-size must be"),
        ("validate IR --images 3", "--images must not be given for an exported folder"),
        ("validate HALF", "this exported folder is not whole"),
        ("validate RUN --max-drop 0", "--max-drop must be a fraction"),
        ("validate RUN --max-drop 1", "--max-drop must be a fraction"),
        ("validate RUN --bound int8.graph.max_abs", "--bound must be KEY=VALUE with a number"),
        ("validate RUN --isa sse", "--isa must be one of"),
        ("serve IR --name a --name b", "--name must be given at most once"),
        ("serve IR --host nowhere.invalid --port 0", "--host must be an address or a known name"),
        ("serve IR --host 203.0.113.7 --port 0", "--host must be an address of this machine"),
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


SCHEMA = "`ftx schema recipe` lists every key, its type and its default"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "train --epocs 3",
            "ftx train has no option --epocs|fix: did you mean --epochs? ftx train -h lists all options",
        ),
        ("train --zzzz", "ftx train has no option --zzzz|fix: run ftx train -h to see what it takes"),
        ("data chek", "ftx data has no command chek|fix: did you mean ftx data check?"),
        ("explain", "IMAGES must be given|fix: for example: ftx explain new-photos"),
        ("export --precision", "--precision must have a value|fix: run ftx export -h to see what it takes"),
        ("validate --images 0", "--images must be at least 1|found: 0|fix: run ftx validate -h to see what it takes"),
        ("validate --images=0", "--images must be at least 1|found: 0|fix: run ftx validate -h to see what it takes"),
        ("serve --port 70000", "--port must be at most 65535|found: 70000|fix: run ftx serve -h to see what it takes"),
        ("validate --max-drop x", "--max-drop must be a number|found: x|fix: run ftx validate -h to see what it takes"),
        ("bench --seconds", "--seconds must have a value|fix: run ftx bench -h to see what it takes"),
        ("train photos", "ftx train takes fewer arguments|found: photos|fix: did you mean --data photos?"),
        (
            "data check --data photos",
            "ftx data check has no option --data|fix: name the data without it: ftx data check DATA",
        ),
        (
            "export --precision fp32 int8",
            "RUN must be a run folder|found: int8|fix: separate several precisions with commas: --precision fp32,int8",
        ),
        (
            "predict a.png --csv out.csv",
            "--csv must not have a file name|fix: write into a file: ftx predict IMAGES --csv > predictions.csv",
        ),
        (
            "train --preset fast --method dora",
            (
                "--preset fast trains only the head, so --method must be linear|found: --method dora"
                "|fix: run the command without --method, or without --preset"
            ),
        ),
        (
            "train --preset fast --method full",
            (
                "--preset fast trains only the head, so --method must be linear|found: --method full"
                "|fix: run the command without --method, or without --preset"
            ),
        ),
        (
            "train --epochs -3",
            "--epochs: must be 'auto' or a whole number of 1 or more; found '-3'|fix: correct it; " + SCHEMA,
        ),
        (
            "train --method linear --rank 16 --set train.batch_size=0",
            "train.batch_size: must be 1 or more; found 0|fix: correct it; " + SCHEMA,
        ),
        (
            "train --method linear --rank 16",
            "--rank: contradicts method linear (model.peft none), which has no adapter|fix: correct it; " + SCHEMA,
        ),
        (
            "train --batch-size 0 --lr x --set train.augment=heavy",
            "3 errors in the recipe:|  --batch-size: must be 1 or more; found '0'"
            "|  --lr: must be 'auto' or a number above 0; found 'x'"
            "|  train.augment: must be one of auto, light, none; found 'heavy'|fix: correct it; " + SCHEMA,
        ),
        (
            "train --epochs 3",
            (
                "--data must be given, as the default folder does not exist|where: data"
                "|fix: give the folder that contains your images, as in: ftx train --data DIR"
            ),
        ),
        ("merge a b c", "ftx merge takes fewer arguments|found: b c|fix: run ftx merge -h to see what it takes"),
    ],
)
def test_a_wrong_command_line_is_an_error_like_all_others(words: str, error: str) -> None:
    said = call(*words.split())
    assert (said.status, said.err) == (2, "error: " + error.replace("|", "\n  ") + "\n")
