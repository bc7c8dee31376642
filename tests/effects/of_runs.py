"""What each flag of ``ftx runs`` does, on copies of runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

from tests.effects.lab import Lab, Said, call

from ftx.runs.run import Run
from ftx.runs.runs_folder import point_latest_at


def _called(lab: Lab, *words: str) -> tuple[Said, set[str]]:
    """The answer in a folder with two runs, the larger of which runs/latest names, and what is left in runs/."""
    with tempfile.TemporaryDirectory(dir=lab.root) as folder, chdir(folder):
        for name, more in (("small", ()), ("large", ("adapter.rank=8", "train.epochs=2"))):
            shutil.copytree(lab.train(*more).path, Path("runs", name))
        Run.open("runs/small").write_file("reports/eval.json", json.dumps({"metrics": {"accuracy": 0.5}}).encode())
        point_latest_at(Path("runs/large"))
        said = call("runs", *words)
        return said, {path.name for path in Path("runs").iterdir()}


def _lines(said: Said) -> list[str]:
    assert said.status == 0, said.err
    return [line.split()[0] for line in said.out.splitlines() if line.startswith("runs/")]


def runs(lab: Lab, flag: str, value: str) -> None:
    both, _ = _called(lab, "runs/small", "runs/large")
    assert sorted(_lines(both)) == ["runs/large", "runs/small"]
    assert "adapter.rank" in both.out
    assert "model.name" not in both.out
    one, _ = _called(lab, "runs/latest")
    assert _lines(one) == ["runs/large"]


def metric(lab: Lab, flag: str, value: str) -> None:
    plain, _ = _called(lab)
    said, _ = _called(lab, flag, value)
    assert value in said.out
    assert value not in plain.out
    assert _called(lab, flag, "evil")[0].status == 2


def sort(lab: Lab, flag: str, value: str) -> None:
    assert _lines(_called(lab, flag, value)[0]) == ["runs/small", "runs/large"]
    assert _lines(_called(lab, flag, "name")[0]) == ["runs/large", "runs/small"]
    assert _called(lab, flag, "evil")[0].status == 2


def remove(lab: Lab, flag: str, value: str) -> None:
    said, left = _called(lab, flag, "runs/large", "--yes", "--json")
    assert said.json["removed"] == ["runs/large"]
    assert said.json["latest"] == "runs/small"
    assert left == {"small", "latest"}


def yes(lab: Lab, flag: str, value: str) -> None:
    asked, left = _called(lab, "--remove", "runs/large")
    assert (asked.status, left) == (2, {"small", "large", "latest"})
    assert _called(lab, "--remove", "runs/large", flag)[0].status == 0


def as_object(lab: Lab, flag: str, value: str) -> None:
    assert len(_called(lab, flag)[0].json["runs"]) == 2
    assert _called(lab)[0].out.startswith("run ")
