"""A setting that was found fastest is that of one model, one machine and one number of processors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftx.core.processors import cores
from ftx.runs.machine import this_machine
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned, read_tuning, tuned_here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "card.json").write_text("{}")
    return tmp_path


def tuned(p50_ms: float, processors: int, cpu: str | None = None) -> TuningResult:
    machine = this_machine() if cpu is None else this_machine().model_copy(update={"cpu": cpu})
    return TuningResult(
        machine=machine,
        processors=processors,
        latency=OpenvinoSetting(threads=1, streams=1),
        p50_ms=p50_ms,
        throughput=OpenvinoSetting(compute="f32", batch=8, threads=2, streams=2),
        images_per_s=9.0,
    )


def test_what_was_found_with_more_or_fewer_processors_is_not_taken(folder: Path) -> None:
    for p50_ms, processors in ((1.0, cores() + 1), (2.0, cores() - 1)):
        keep_tuned(folder, tuned(p50_ms, processors))
        assert tuned_here(folder) is None
    keep_tuned(folder, tuned(3.0, cores()))
    found = tuned_here(folder)
    assert found is not None
    assert found.p50_ms == 3.0


def test_what_another_machine_found_is_not_taken_and_stays(folder: Path) -> None:
    keep_tuned(folder, tuned(1.0, cores(), "another CPU"))
    assert tuned_here(folder) is None
    keep_tuned(folder, tuned(2.0, cores()))
    keep_tuned(folder, tuned(4.0, cores() + 1))
    keep_tuned(folder, tuned(5.0, cores()))  # in the place of the 2
    assert [one.p50_ms for one in read_tuning(folder).tuned] == [1.0, 4.0, 5.0]
    found = tuned_here(folder)
    assert found is not None
    assert found.p50_ms == 5.0


def test_each_goal_has_its_setting() -> None:
    found = tuned(1.0, 1)
    assert found.setting("latency") == found.latency != found.throughput == found.setting("throughput")


@pytest.mark.parametrize("change", [{"ir": "0" * 64}, {"schema_version": 2}, {"spare": 1}])
def test_of_another_model_or_schema_nothing_is_known(change: dict[str, object], folder: Path) -> None:
    keep_tuned(folder, tuned(1.0, cores()))
    path = folder / "tuning.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert tuned_here(folder) is None
    assert read_tuning(folder).tuned == []
