"""What each flag of ``ftx run``, of the verbs that only tell, and of the program does."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import yaml
from tests.effects.lab import Lab, call

import ftx


def run_recipe(lab: Lab, flag: str, value: str) -> None:
    """What the recipe says was trained: by its file here; by a name that is none it does not begin."""
    out, said = lab.piped
    assert said.status == 0, said.err
    assert (said.json["verb"], said.json["train"]["method"]) == ("run", "linear")
    assert yaml.safe_load((out / "recipe.yaml").read_text())["model"]["name"] == "test_resnet"
    assert lab.call("run", value).status == 2


def run_data(lab: Lab, flag: str, value: str) -> None:
    _, said = lab.piped
    assert said.json["train"]["classes"] == 4  # "noise", of the recipe, has two


def run_precision(lab: Lab, flag: str, value: str) -> None:
    out, said = lab.piped
    assert [one["artifact"] for one in said.json["export"]["artifacts"]] == ["onnx", "openvino/fp16"]
    assert [folder.name for folder in (out / "openvino").iterdir()] == ["fp16"]


def run_set(lab: Lab, flag: str, value: str) -> None:
    _, said = lab.piped
    assert said.json["train"]["epochs"] == 2


def run_out(lab: Lab, flag: str, value: str) -> None:
    out, said = lab.piped
    assert said.json["run"] == str(out)
    assert (out / "reports" / "parity.json").is_file()


def run_strict(lab: Lab, flag: str, value: str) -> None:
    said = lab.call("run", "base.yaml", "--set", "data.classes=3", flag, "--out", "strict")
    assert said.status == 2
    assert "error: data.classes must be 2" in said.err
    assert not (lab.root / "strict").exists()


def run_require_proof(lab: Lab, flag: str, value: str) -> None:
    """What is not proved ends with status 1, though nothing failed; where all is proved, with 0."""
    assert lab.unproved.status == 1
    parity = lab.unproved.json["parity"]
    assert parity["verdicts"] == {"dense": "proved", "onnx": "proved", "openvino/fp16": "unproved"}
    assert (parity["problems"], parity["require_proof"]) == ([], True)
    _, proved = lab.piped
    assert proved.status == 0
    assert set(proved.json["parity"]["verdicts"].values()) == {"proved"}


def max_drop(lab: Lab, value: str) -> None:
    """The margin that ftx validate holds a run's artifacts to."""
    _, said = lab.piped
    assert said.json["parity"]["max_drop"] == float(value)
    assert lab.unproved.json["parity"]["max_drop"] == 0.02


def run_json(lab: Lab, flag: str, value: str) -> None:
    _, said = lab.piped
    assert {"train", "merge", "export", "parity"} <= said.json.keys()


def models_pattern(lab: Lab, flag: str, value: str) -> None:
    assert {one["name"] for one in lab.done("models", value, "--json").json["models"]} == {
        "swinv2_tiny_window8_256",
        "swinv2_tiny_window16_256",
    }
    assert len(lab.done("models", "--json").json["models"]) > 1000
    assert lab.call("models", "qqq").status == 2


def models_json(lab: Lab, flag: str, value: str) -> None:
    assert lab.done("models", "dinov2-small", flag).json["models"][0]["name"] == "dinov2-small"
    assert lab.done("models", "dinov2-small").out.startswith("model")


def recipes_json(lab: Lab, flag: str, value: str) -> None:
    assert "quickstart-multilabel" in {one["name"] for one in lab.done("recipes", flag).json["recipes"]}
    assert lab.done("recipes").out.startswith("name")


def schema(lab: Lab, flag: str, value: str) -> None:
    assert lab.done("schema", value).json["title"] == "EvalReport"
    assert lab.done("schema", "merge").json["title"] == "MergeReport"
    assert lab.call("schema", "evil").status == 2


def _quickstart(lab: Lab, *words: str) -> tuple[int, set[str], str]:
    """As far as the sample: the folder of the run is taken, so that nothing is trained."""
    folder = lab.root / "quickstart"
    (folder / "taken").mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        said = call("quickstart", *words)
    return said.status, {one.name for one in folder.glob("runs/*")}, said.err


def sample_task(lab: Lab, flag: str, value: str) -> None:
    here = lab.root / "samples"
    for task, name in (("multilabel", "sample-sheets"), ("hierarchical", "sample-tree.csv")):
        said = lab.done("data", "sample", flag, task, "--out", here, "--json").json
        assert (said["task"], said["path"]) == (task, str(here / name))
        assert lab.done("data", "check", said["path"], "--json").json["task"] == task
    assert lab.call("data", "sample", flag, "multilabe").status == 2


def sample_out(lab: Lab, flag: str, value: str) -> None:
    here = lab.root / "sample-out"
    lab.done("data", "sample", flag, here)
    assert len(list((here / "sample-data").rglob("*.png"))) == 1500
    lab.done("data", "sample", flag, here)  # it is there, and as it should be
    (here / "sample-data" / "mine.txt").touch()
    assert lab.call("data", "sample", flag, here).status == 2


def sample_json(lab: Lab, flag: str, value: str) -> None:
    here = lab.root / "sample-json"
    assert lab.done("data", "sample", "--out", here, flag).json["verb"] == "data sample"
    assert str(here / "sample-data") in lab.done("data", "sample", "--out", here).out


def quickstart_task(lab: Lab, flag: str, value: str) -> None:
    plain = _quickstart(lab, "--out", "taken")[1]
    assert plain == {"sample-data"}
    status, samples, error = _quickstart(lab, flag, value, "--out", "taken")
    assert (status, samples - plain) == (2, {"sample-tree.csv"})
    assert "--out must not exist yet" in error
    assert _quickstart(lab, flag, "hierarchcal")[0] == 2
    (lab.root / "quickstart" / "runs" / "sample-tree.csv").unlink()


def quickstart_out(lab: Lab, flag: str, value: str) -> None:
    status, samples, error = _quickstart(lab, flag, value)
    assert (status, samples) == (2, {"sample-data"})
    assert "taken" in error


def quickstart_json(lab: Lab, flag: str, value: str) -> None:
    with chdir(lab.root):
        said = call("quickstart", "--task", "none of these", flag)
        assert (said.status, said.json["verb"], said.json["ok"]) == (2, "quickstart", False)
        assert call("quickstart", "--task", "none of these").out == ""


def version(lab: Lab, flag: str, value: str) -> None:
    assert lab.done(flag).out == f"ftx {ftx.__version__}\n"


def debug(lab: Lab, flag: str, value: str) -> None:
    for words in (("--debug", "schema", "evil"), ("schema", "evil", "--debug")):
        said = lab.call(*words)
        assert said.status == 2
        assert "Traceback" in said.err
    assert "Traceback" not in lab.call("schema", "evil").err


def _in_bash(home: Path, words: str) -> subprocess.CompletedProcess[str]:
    """The shell is found by the parent process."""
    home.mkdir(exist_ok=True)
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(Path(ftx.__file__).parents[1])}
    # Completion is of the program, by its name; the other command keeps the shell as the parent.
    (home / "ftx").write_text("from ftx.cli.app import main\nmain()\n")
    line = f"{shlex.join([sys.executable, str(home / 'ftx')])} {words}; exit $?"
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)


def verbose(lab: Lab, flag: str, value: str) -> None:
    """Anywhere on the line, and of this line only."""
    words = ("eval", lab.train().path, "--artifact", "trained")
    for line in ((flag, *words), (*words, flag), (*words[:1], "--verbose", *words[1:])):
        assert "false positives" in lab.done(*line).out
        assert "false positives" not in lab.done(*words).out


def show_completion(lab: Lab, flag: str, value: str) -> None:
    said = _in_bash(lab.root / "home", flag)
    assert said.returncode == 0, said.stderr
    assert "_FTX_COMPLETE=complete_bash" in said.stdout


def install_completion(lab: Lab, flag: str, value: str) -> None:
    home = lab.root / "home"
    said = _in_bash(home, flag)
    assert said.returncode == 0, said.stderr
    assert "_FTX_COMPLETE=complete_bash" in (home / ".bash_completions" / "ftx.sh").read_text()
    assert ".bash_completions/ftx.sh" in (home / ".bashrc").read_text()
