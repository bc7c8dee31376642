"""The artifacts of a run: THE table, which everything else reads.

A new export format is a row here, its writer (``ftx.exporting.writers``) and its opener (``ftx.runtimes.open_model``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ftx.core.errors import shell_command

# What ``ftx export --format`` takes: the runtimes that read what it writes.
Format = Literal["onnx", "openvino"]
RuntimeName = Literal["torch", Format]
StoredPrecision = Literal["fp32", "fp16", "int8"]

EXPORT_IR = "ftx export"
# The files of an IR.
IR_FILE = "model.xml"
IR_WEIGHTS = "model.bin"
# The float model next to the int8 one, only in int8-checked.
FLOAT_IR_FILE = "float.xml"
FLOAT_IR_WEIGHTS = "float.bin"
# The graph of an ONNX folder; weights are in a file of their own if the graph and they are too large for one file.
ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class Artifact:
    """A model in a folder of the run, and what other packages need to know of its format.

    ``made_by`` is the command, before the run's name; ``precision`` is that of the weights in its files and chooses the
    bounds of its parity. ``variant`` is the value of ``--precision`` and in ``card.json``: only IRs have one.
    """

    name: str
    made_by: str
    made_from: Artifact | None
    runtime: RuntimeName
    # The Python package that computes it, and the files that hold its weights.
    package: str = "torch"
    weights: str = "*model.safetensors"
    precision: StoredPrecision = "fp32"
    variant: str = ""
    # The file that has Model API's metadata, if one has.
    metadata_file: str | None = None
    # Whether the graph itself resizes, crops and normalises: its logits from files then differ from those from pixels.
    resizes: bool = False
    # Whether precision, threads, streams and kernels are chosen on each machine: parity runs it in several precisions
    # and ``ftx bench --save`` tunes it.
    tunable: bool = False
    # Whether ``ftx bench`` measures it. A trained model is as fast as its dense one.
    timed: bool = True

    def __str__(self) -> str:
        return self.name

    def holds(self, file: str) -> bool:
        """Whether a file, named as in ``run.json``, is one of its own."""
        return file.startswith(f"{self.name}/")

    def command(self, run: Path) -> str:
        """The command that makes it, as a shell takes it."""
        return shell_command(self.made_by, None if self.made_from is None else run)


def _ir(variant: str, precision: StoredPrecision, weights: str = IR_WEIGHTS) -> Artifact:
    return Artifact(
        name=f"openvino/{variant}",
        made_by=f"{EXPORT_IR} --precision {variant}",
        made_from=DENSE,
        runtime="openvino",
        package="openvino",
        weights=weights,
        precision=precision,
        variant=variant,
        metadata_file=IR_FILE,
        resizes=True,
        tunable=True,
    )


TRAINED = Artifact("trained", "ftx train", made_from=None, runtime="torch", timed=False)
DENSE = Artifact("dense", "ftx merge", made_from=TRAINED, runtime="torch")
ONNX = Artifact(
    "onnx",
    "ftx export --format onnx",
    made_from=DENSE,
    runtime="onnx",
    package="onnxruntime",
    weights="*.onnx*",
    metadata_file=ONNX_FILE,
)
IR_FP32 = _ir("fp32", "fp32")
IR_FP16 = _ir("fp16", "fp16")
# Only weights in 8 bits: a quarter of the size, and computed in floats.
IR_INT8_WEIGHTS = _ir("int8-weights", "int8")
IR_INT8 = _ir("int8", "int8")
# The same and the fp32 one, which also runs the images whose int8 labels are doubtful.
IR_INT8_CHECKED = _ir("int8-checked", "int8", "*.bin")
# Weights in 7 bits, so that sums of two products fit into the 16 that CPUs without VNNI have for them.
IR_INT8_SAFE = _ir("int8-overflow-safe", "int8")

# By name, in the order of the pipeline; the IRs by exactness, the most exact first.
ARTIFACTS: Mapping[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        *(TRAINED, DENSE, ONNX, IR_FP32, IR_FP16, IR_INT8_WEIGHTS),
        *(IR_INT8_CHECKED, IR_INT8, IR_INT8_SAFE),
    )
}
EXPORTED = tuple(artifact for artifact in ARTIFACTS.values() if artifact.made_from == DENSE)
FORMATS: tuple[Format, ...] = get_args(Format)
# The OpenVINO models by variant.
IRS: Mapping[str, Artifact] = {artifact.variant: artifact for artifact in EXPORTED if artifact.variant}

if TYPE_CHECKING:
    IrVariant = str
else:  # what pydantic checks, and ``ftx schema`` shows
    IrVariant = Literal[tuple(IRS)]


def finer_variants(artifact: Artifact) -> list[str]:
    """The variants of the IRs that are more exact than this one; none for what is no IR."""
    return list(takewhile(lambda variant: variant != artifact.variant, IRS)) if artifact.variant else []
