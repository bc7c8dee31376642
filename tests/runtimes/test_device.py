"""Other devices of OpenVINO than the CPU, by those that every machine has: AUTO, which here chooses the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ColourModel, colour_logits
from tests.effects.lab import call
from tests.runtimes.test_compiled_network import PREPROCESS, SIDE, images, network, whole

from ftx.core.errors import EnvironmentFault, GateFailed, InputError
from ftx.data.preprocess import Pixels
from ftx.evaluating import validate
from ftx.runs.machine import this_machine, this_set
from ftx.runs.proof_json import read_proof
from ftx.runtimes import device, load
from ftx.runtimes.compiled_network import CompiledNetwork, NetworkOutputs, core
from ftx.runtimes.device import check_device
from ftx.runtimes.openvino import OpenVinoPredictor

AUTO = "AUTO:CPU"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(device.time, "sleep", found.append)
    return found


@pytest.fixture
def model(colour_model: ColourModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
@pytest.mark.parametrize("name", ["AUTO", AUTO, "AUTO:NPU,CPU"])
def test_a_model_computes_the_same_on_auto(colour_model: ColourModel, name: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *size, 3), np.uint8)
    predictor = OpenVinoPredictor(colour_model.folder, device=name)
    here = OpenVinoPredictor(colour_model.folder)
    np.testing.assert_allclose(predictor.logits(pixels), here.logits(pixels), atol=1e-4)
    files = sorted(colour_model.images.rglob("*.png"))
    for own, other in zip(here.logits_from_files(files), predictor.logits_from_files(files), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)
    assert predictor.device == name
    assert predictor.compute == here.compute
    assert predictor.threads == here.threads  # of the CPU that AUTO chose


@pytest.mark.parametrize(("name", "batch"), [("AUTO:NPU,CPU", "1"), (AUTO, "?")])
def test_a_network_for_an_npu_has_only_known_shapes(name: str, batch: str) -> None:
    """Its compiler takes no others. For a GPU the batch stays free."""
    model, pixels = network(int8=False), images(3)
    there = CompiledNetwork(model, PREPROCESS, {}, Path("model.xml"), this_set(), kernels="batch", device=name)
    assert str(there.compiled.input(0).get_partial_shape()) == f"[{batch},3,{SIDE},{SIDE}]"
    for own, other in zip(whole(model, pixels), there.request()(pixels), strict=True):
        np.testing.assert_allclose(own, other, atol=0.02 * np.abs(own).max())  # bf16, if the CPU chooses it


@pytest.mark.parametrize("name", ["cpu", "FPGA", "AUTO:", "GPU.x", "CPU,GPU", "AUTO:FPGA", "HETERO:CPU", ""])
def test_another_name_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="--device must be one of CPU, GPU, NPU, AUTO"):
        check_device(name, core())


@pytest.mark.parametrize("name", ["GPU.7", "AUTO:GPU.7,NPU.7"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(EnvironmentFault, match="finds no device"):
        check_device(name, core())


def test_only_openvino_has_devices(validated_run: Path) -> None:
    for artifact in ("dense", "onnx"):
        with pytest.raises(InputError, match="--device needs an OpenVINO model"):
            load(validated_run / artifact, device=AUTO)


def other_outputs(after: int) -> Callable[[CompiledNetwork, int | None], Callable[[Pixels], NetworkOutputs]]:
    """Requests on AUTO whose outputs belong to other labels, after the first few of them."""
    plain, count = CompiledNetwork.request, [0]

    def request(self: CompiledNetwork, outputs: int | None = None) -> Callable[[Pixels], NetworkOutputs]:
        run = plain(self, outputs)

        def faulty(pixels: Pixels) -> NetworkOutputs:
            count[0] += 1
            found = run(pixels)
            return [np.roll(one, 1, axis=1) for one in found] if count[0] > after and _is_auto(self) else found

        return faulty

    return request


def _is_auto(network: CompiledNetwork) -> bool:
    return "MULTI_DEVICE_PRIORITIES" in network.compiled.get_property("SUPPORTED_PROPERTIES")


@pytest.mark.parametrize("after", [0, 1])
def test_a_device_that_computes_other_labels_fails_also_if_it_begins_later(
    model: Path, colour_model: ColourModel, monkeypatch: pytest.MonkeyPatch, pauses: list[float], after: int
) -> None:
    """AUTO was seen to compute the first request correctly, and later ones wrongly."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    assert validate(model, device=AUTO).ok
    assert pauses == [device.AUTO_PAUSE_S]
    with monkeypatch.context() as faulty:
        faulty.setattr(CompiledNetwork, "request", other_outputs(after))
        report = validate(model, device=AUTO)
        assert (report.ok, report.machine.device) == (False, AUTO)
        assert validate(model).ok
    devices = {one.machine.device: one.verdict for one in read_proof(model).devices}
    assert devices[AUTO] == "failed"
    assert devices["CPU"] != "failed"
    with pytest.raises(GateFailed, match=f"failed ftx validate on this machine on {AUTO}"):
        load(model, device=AUTO)
    np.testing.assert_allclose(
        load(model, device=AUTO, allow_failed=True).logits(pixels), colour_logits(pixels), atol=1e-3
    )
    load(model)


def test_the_commands_take_the_device_and_the_verdict(model: Path, colour_model: ColourModel) -> None:
    image = str(next(colour_model.images.rglob("*.png")))
    done = call("predict", image, "--artifact", str(model), "--device", AUTO, "--json")
    assert (done.status, "not validated yet on AUTO:CPU" in done.err) == (0, True)
    done = call("predict", image, "--artifact", str(model), "--device", AUTO, "--require-proof")
    assert (done.status, f"ftx validate {model} --device {AUTO}" in done.err) == (1, True)
    assert call("predict", image, "--artifact", str(model), "--device", "GPU.7").status == 3
    done = call("validate", str(model), "--device", AUTO, "--json")
    report = json.loads(done.out)
    assert (report["machine"]["device"], done.status) == (AUTO, 0)
    assert [one.machine for one in read_proof(model).devices] == [this_machine(AUTO)]
    done = call("bench", str(model), "--device", AUTO, "--seconds", "0.1", "--batch", "1", "--json")
    assert (done.status, json.loads(done.out)["machine"]["device"]) == (0, AUTO)
    assert call("bench", str(model), "--device", AUTO, "--save").status == 2
    assert call("validate", str(model), "--device", AUTO, "--isa", "avx2").status == 2


@pytest.mark.representative
def test_a_run_keeps_the_verdict_of_a_device_next_to_its_models(validated_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(validated_run, tmp_path / "run"))
    report = validate(run, device=AUTO)
    assert {(one.artifact, one.device) for one in report.releases} >= {("openvino/fp32", AUTO), ("openvino/int8", AUTO)}
    assert report.machine.device == "CPU"
    known = read_proof(run / "openvino" / "fp32")
    assert known.run is not None
    assert [one.machine for one in known.sets] == [this_machine(AUTO)]
    assert len([row for row in known.sets[0].rows if row.view == "graph"]) == 2  # before and after the pause


@pytest.mark.representative
def test_a_wrong_device_fails_the_cells_of_a_run_and_not_the_cpu(
    validated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the device, and not the CPU, is what ran there."""
    run = Path(shutil.copytree(validated_run, tmp_path / "run"))
    monkeypatch.setattr(CompiledNetwork, "request", other_outputs(0))
    report = validate(run, device=AUTO)
    assert not report.ok
    assert {one.verdict for one in report.releases} == {"failed"}
    assert "failed" not in report.verdicts.values()
