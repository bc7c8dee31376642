"""``ftx export --format ovms``: a repository that OpenVINO Model Server serves without changes.

The server itself decodes images, into BGR (its documentation, "Support for Binary Encoded Image Input Data"); our
models take RGB. So each model is written twice: unchanged, for tensors, and with its channels reversed, for images.

Source: https://docs.openvino.ai/2026/model-server/ovms_docs_models_repository.html, for the folders.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.disk import settle
from ftx.core.errors import InputError
from ftx.core.files import check_space, place_at, staging
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry
from ftx.exporting.export import artifacts_of, check_free
from ftx.runs.artifacts import IR_FILE, IR_INT8_CHECKED, IR_WEIGHTS, Artifact
from ftx.runs.run import Run

with no_telemetry():
    import openvino as ov
    from openvino import opset8 as ops

CONFIG_FILE = "config.json"
# The folder of the only version that is written; the server takes the highest number.
VERSION = "1"


class ServedModel(ClosedModel):
    """One model of the repository."""

    name: str
    """The name that clients use."""
    channels: str
    """The order of the channels of its input: ``rgb`` or ``bgr``."""
    artifact: str
    """The model of the run that it is made from."""


class OvmsReport(CommandReport):
    """The model repository that ``ftx export --format ovms`` wrote."""

    verb: str = "export"
    path: str
    """The folder of the repository."""
    config: str
    """The path of its ``config.json``."""
    size_bytes: int
    """The size of all its files in bytes."""
    models: list[ServedModel]
    """The models: each one for RGB, and for BGR."""


def export_ovms(
    run: Run | Path | str | None,
    out: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    progress: Progress = SILENT,
) -> OvmsReport:
    """Write IRs of a run as a repository with its ``config.json``, for RGB and for BGR.

    Raises: RunError if the run lacks one of the IRs, or it is altered or stale; InputError for an unknown precision,
    or if ``out`` exists.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    if IR_INT8_CHECKED.variant in precisions:
        raise InputError(
            "OpenVINO Model Server cannot run int8-checked, which has two models",
            found=f"--precision {','.join(precisions)}",
            fix="export another precision for it, or serve this one with ftx serve",
        )
    folders = {artifact: opened.require(artifact) for artifact in artifacts_of(["openvino"], precisions)}
    check_free(out)
    sizes = [path.stat().st_size for folder in folders.values() for path in folder.glob("model.*")]
    check_space(out.parent, 2 * sum(sizes))
    models: list[ServedModel] = []
    with progress.track("Exporting", 2 * len(folders)) as task, staging(out) as staged:
        for artifact, folder in folders.items():
            name = _name(opened, artifact, is_only=len(folders) == 1)
            for served, channels in ((name, "rgb"), (f"{name}-bgr", "bgr")):
                version = staged / served / VERSION
                version.mkdir(parents=True)
                if channels == "rgb":
                    for file in (IR_FILE, IR_WEIGHTS):
                        shutil.copyfile(folder / file, version / file)
                else:
                    ov.save_model(with_bgr_input(folder / IR_FILE), version / IR_FILE, compress_to_fp16=False)
                models.append(ServedModel(name=served, channels=channels, artifact=artifact.name))
                task.advance(artifact=served)
        config = {"model_config_list": [{"config": {"name": one.name, "base_path": one.name}} for one in models]}
        (staged / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        settle(staged)
        place_at(staged, out)
    return OvmsReport(
        run=str(opened.path),
        path=str(out),
        config=str(out / CONFIG_FILE),
        size_bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        models=models,
    )


def with_bgr_input(path: Path) -> ov.Model:
    """The same model for BGR: the channels of its input are reversed before anything else.

    Shape: u8 [N, H, W, 3], BGR, any H and W.
    """
    model = ov.Core().read_model(path)
    (image,) = model.get_parameters()
    readers = list(image.output(0).get_target_inputs())
    order = ops.constant(np.array([2, 1, 0], np.int64))
    turned = ops.gather(image, order, ops.constant(np.array(3, np.int64)))
    turned.set_friendly_name("bgr_to_rgb")
    for reader in readers:
        reader.replace_source_output(turned.output(0))
    model.validate_nodes_and_infer_types()
    return model


def _name(run: Run, artifact: Artifact, *, is_only: bool) -> str:
    """The run's name in letters that are valid in an address; with the precision if there are several models."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", run.path.resolve().name).strip("-.") or "model"
    return stem if is_only else f"{stem}-{artifact.variant}"
