"""What each flag of ``ftx tune`` does, in trials of one step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from tests.effects.lab import Lab, Said

from ftx.runs.run import Run

SPACE = "train.lr: [0.01, 0.02, 0.03]\n"


@contextmanager
def _tuned(lab: Lab, *words: str, recipe: str = "base.yaml", trials: str = "2") -> Iterator[tuple[Said, Path]]:
    """The answer, and the folder of the study."""
    (lab.root / "space.yaml").write_text(SPACE)
    folder = lab.root / "study"
    many = () if "--budget" in words or "--trials" in words else ("--trials", trials)
    space = () if "--space" in words else ("--space", "space.yaml")
    where = () if "--out" in words else ("--out", "study")
    try:
        yield lab.call("tune", recipe, *space, *many, *where, *words), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(folder: Path) -> list[Run]:
    return [Run.open(run) for run in sorted((folder / "trials").iterdir()) if run.is_dir()]


def recipe(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, recipe=value) as (said, folder):
        assert said.status == 0, said.err
        assert [run.recipe().adapter.rank for run in _runs(folder)] == [4, 4]
    with _tuned(lab, recipe="evil") as (said, folder):
        assert said.status == 2
        assert not folder.exists()


def data(lab: Lab, flag: str, value: str) -> None:
    for words, names in (((), ("a", "b")), ((flag, value), ("common", "rare"))):
        with _tuned(lab, *words, trials="1") as (said, folder):
            assert said.status == 0, said.err
            assert _runs(folder)[0].manifest.labels.names == names


def space(lab: Lab, flag: str, value: str) -> None:
    (lab.root / "ranks.yaml").write_text("adapter.rank: [2, 3]\n")
    with _tuned(lab, flag, "ranks.yaml") as (said, folder):
        assert said.status == 0, said.err
        recipes = [run.recipe() for run in _runs(folder)]
        assert {one.adapter.rank for one in recipes} <= {2, 3}
        assert len({one.train.lr for one in recipes}) == 1
    (lab.root / "ranks.yaml").write_text("adapter.rnk: [2, 3]\n")
    with _tuned(lab, flag, "ranks.yaml") as (said, _):
        assert said.status == 2
        assert "did you mean 'adapter.rank'" in said.err


def trials(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, value) as (said, folder):
        assert said.status == 0, said.err
        assert len(_runs(folder)) == int(value)
    with _tuned(lab, flag, "0") as (said, _):
        assert said.status == 2


def budget(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, value) as (said, folder):
        assert said.status == 0, said.err
        assert _runs(folder)
    assert lab.call("tune", "base.yaml", "--space", "space.yaml").status == 2


def objective(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, value, "--json", trials="1") as (said, _):
        assert said.status == 0, said.err
        assert said.json["trials"][0]["latency_ms"] > 0
    with _tuned(lab, "--json", trials="1") as (said, _):
        assert said.json["trials"][0]["latency_ms"] is None


def study(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, value) as (said, folder):
        assert said.status == 0, said.err
        assert optuna.get_all_study_names(f"sqlite:///{folder / 'study.db'}") == [value]


def storage(lab: Lab, flag: str, value: str) -> None:
    url = f"sqlite:///{lab.root / 'shared.db'}"
    with _tuned(lab, flag, url) as (said, folder):
        assert said.status == 0, said.err
        assert not (folder / "study.db").exists()
        assert len(optuna.load_study(study_name="ftx", storage=url).trials) == 2
    (lab.root / "shared.db").unlink()


def set_(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, value, trials="1") as (said, folder):
        assert said.status == 0, said.err
        assert _runs(folder)[0].recipe().train.epochs == 2


def out(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, "sought", trials="1") as (said, folder):
        assert said.status == 0, said.err
        assert not folder.exists()
        assert (lab.root / "sought" / "best.yaml").is_file()
    shutil.rmtree(lab.root / "sought")


def as_object(lab: Lab, flag: str, value: str) -> None:
    with _tuned(lab, flag, trials="1") as (said, folder):
        assert said.json["verb"] == "tune"
        lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
        assert said.json["trials"] == lines
    with _tuned(lab, trials="1") as (said, _):
        assert said.out.startswith("trial")
