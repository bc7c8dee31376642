"""Other releases of OpenVINO: one process each, and a verdict for each cell of release and instruction set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ColourModel, colour_logits
from tests.effects.lab import call
from tests.evaluating.wheels_of_openvino import SITE, write_wheel

from ftx.core.errors import EnvironmentFault, ExportError, InputError
from ftx.evaluating.releases import install_releases
from ftx.runs.artifacts import IR_FP32
from ftx.runs.machine import cpu_flags, environment, sets_of, this_set
from ftx.runs.proof_json import read_proof
from ftx.runs.run import Run
from ftx.runtimes.other_release import OtherRelease


def test_a_model_computes_the_same_in_the_other_process(
    colour_model: ColourModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = this_set()
    assert own is not None
    images = sorted(colour_model.images.rglob("*.png"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with OtherRelease(colour_model.folder, SITE, own) as predictor:
        np.testing.assert_allclose(predictor.logits(pixels), colour_logits(pixels), atol=1e-4)
        rows = [row for row in predictor.logits_from_files(images) if not isinstance(row, Exception)]
        assert len(rows) == 12
        assert [int(row.argmax()) for row in rows] == [2] * 4 + [1] * 4 + [0] * 4  # blue, green, red
        assert predictor.kernels().isa == own
        assert not predictor.kernels().emulated
        # A user may have limited this process, and so the other one.
        monkeypatch.setattr("ftx.runs.machine.is_held", lambda flags: flags == cpu_flags())
        assert predictor.kernels().emulated
        assert predictor.compute.chosen_by_runtime
    with pytest.raises(ExportError, match="this OpenVINO cannot run the model"):
        predictor.logits(pixels)


def test_a_process_is_limited_to_the_set(
    colour_model: ColourModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault shows in a process of that set only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # not the release that another test installed
    other = next(one for one in sets_of(cpu_flags()) if one != this_set())
    write_wheel(tmp_path / "wheels", "2025.4.1", "labels", environment(other)["ONEDNN_MAX_CPU_ISA"])
    home = install_releases(["2025.4"], tmp_path / "wheels")["2025.4"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    own = this_set()
    assert own is not None
    for isa, shift in ((own, 0), (other, 1)):
        with OtherRelease(colour_model.folder, home, isa) as predictor:
            assert predictor.version == "2025.4.1"
            np.testing.assert_allclose(predictor.logits(pixels), np.roll(colour_logits(pixels), shift, 1), atol=1e-4)
            assert predictor.kernels().emulated == bool(shift)


@pytest.mark.parametrize(
    ("fault", "found"), [("no start", "does not start"), ("no run", "not supported"), ("dies", "status 7")]
)
def test_a_release_that_cannot_run_is_an_error(
    colour_model: ColourModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, found: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_wheel(tmp_path / "wheels", "2024.6.0", fault)
    home = install_releases(["2024.6.0"], tmp_path / "wheels")["2024.6.0"]
    own = this_set()
    assert own is not None
    with pytest.raises(ExportError) as caught, OtherRelease(colour_model.folder, home, own) as predictor:
        predictor.logits(np.zeros((1, 16, 16, 3), np.uint8))
    assert found in str(caught.value.found)


def test_a_release_is_installed_once_and_what_cannot_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheels = tmp_path / "wheels"
    for version in ("2025.4.0", "2025.4.1"):
        write_wheel(wheels, version)
    home = install_releases(["2025.4"], wheels)["2025.4"]
    assert "2025.4.1" in (home / "openvino" / "__init__.py").read_text()  # the newest patch
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert install_releases(["2025.4"], wheels)["2025.4"] == home
    with pytest.raises(EnvironmentFault) as caught:
        install_releases(["2025.3"], wheels)
    assert "openvino==2025.3" in str(caught.value.found)
    assert not list(home.parent.glob("tmp*"))
    for wrong in ("latest", "2025", "2025.4; rm", "--index-url"):
        with pytest.raises(InputError):
            install_releases([wrong], wheels)


@pytest.mark.slow
def test_a_fault_is_found_in_its_cell_and_in_no_other(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own, other = this_set(), next(one for one in sets_of(cpu_flags()) if one != this_set())
    run = Run.open(shutil.copytree(whole_run, tmp_path / "run"))
    preprocess = run.manifest.preprocess
    limit = environment(other)["ONEDNN_MAX_CPU_ISA"]
    wheels = tmp_path / "wheels"
    faults = {
        "2025.0": "",
        "2025.1": "labels",
        "2025.2": "files",
        "2025.3": "no run",
        "2025.4": "nan",
        "2026.0": "later",
    }
    for version, fault in faults.items():
        write_wheel(wheels, f"{version}.0", fault, limit, preprocess.box)
    done = call(
        *("validate", str(run.path), "--openvino", ",".join(faults), "--wheels", str(wheels)),
        *("--isa", f"{own},{other}", "--json"),
    )
    assert done.status == 1, done.err
    cells = json.loads(done.out)["releases"]
    cells = [one for one in cells if one["artifact"] == "openvino/fp32"]
    failed = {(one["openvino"].removesuffix(".0"), one["isa"]) for one in cells if one["verdict"] == "failed"}
    assert failed == {(version, other) for version, fault in faults.items() if fault}
    assert len(cells) == 2 * len(faults)
    # What is known of each cell stands next to the model; a cell that did not run leaves nothing.
    known = {(one.machine.openvino, one.isa): one.verdict for one in read_proof(run.folder(IR_FP32)).sets}
    assert known["2025.0.0", other] != "failed"
    assert known["2025.1.0", other] == "failed"
