"""``ftx export --format ovms``: a repository that OpenVINO Model Server serves as it lies there.

The server decodes images by itself, into BGR (its documentation, "Support for Binary Encoded Image Input Data"); our
models take RGB. So each model is there twice: as it is, for tensors, and with its channels turned round, for images.

Source: https://docs.openvino.ai/2026/model-server/ovms_docs_models_repository.html, for the folders.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from ftx.core.command_report import CommandReport
from ftx.core.disk import settle
from ftx.core.errors import InputError
from ftx.core.files import check_space, place_at, staging
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry
from ftx.exporting.export import artifacts_of
from ftx.runs.artifacts import IR_FILE, Artifact
from ftx.runs.run import Run

with no_telemetry():
    import openvino as ov
    from openvino import opset8 as ops

CONFIG_FILE = "config.json"
# The folder of the only version that is written; the server takes the highest number.
VERSION = "1"
_WEIGHTS = Path(IR_FILE).with_suffix(".bin").name


class ServedModel(BaseModel):
    """A model by the name that clients ask for, the order of channels that it takes, and the IR that it is of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    channels: str
    artifact: str


class OvmsReport(CommandReport):
    """What ``ftx export --format ovms`` wrote."""

    verb: str = "export"
    path: str
    config: str
    size_bytes: int
    models: list[ServedModel]


def export_ovms(
    run: Run | Path | str | None,
    out: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    progress: Progress = SILENT,
) -> OvmsReport:
    """Write IRs that a run holds as a repository with its ``config.json``, for RGB and for BGR.

    Raises: RunError if the run lacks one of the IRs, or it is altered or stale; InputError for an unknown precision,
    or if ``out`` is there already.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    wanted = artifacts_of(["openvino"], precisions)
    folders = {artifact: opened.require(artifact) for artifact in wanted}
    if out.exists() or out.is_symlink():
        raise InputError("there is something already", where=out, fix="choose another name, or move it away")
    sizes = [path.stat().st_size for folder in folders.values() for path in folder.glob("model.*")]
    check_space(out.parent, 2 * sum(sizes))
    models: list[ServedModel] = []
    with progress.track("exporting", 2 * len(folders)) as task, staging(out) as staged:
        for artifact, folder in folders.items():
            name = _name(opened, artifact, alone=len(folders) == 1)
            for served, channels in ((name, "rgb"), (f"{name}-bgr", "bgr")):
                version = staged / served / VERSION
                version.mkdir(parents=True)
                if channels == "rgb":
                    for file in (IR_FILE, _WEIGHTS):
                        shutil.copyfile(folder / file, version / file)
                else:
                    ov.save_model(turned_round(folder / IR_FILE), version / IR_FILE, compress_to_fp16=False)
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


def turned_round(path: Path) -> ov.Model:
    """The same model for BGR: the channels of its input are turned round before anything else.

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


def _name(run: Run, artifact: Artifact, *, alone: bool) -> str:
    """The run's name in letters that an address takes; with the precision where there are several."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", run.path.resolve().name).strip("-.") or "model"
    return stem if alone else f"{stem}-{artifact.variant}"
