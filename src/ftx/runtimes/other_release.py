"""An exported model that another release of OpenVINO runs, in a process in which ftx is not installed.

Shapes: N images, C labels.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np

from ftx.core.errors import ExportError, ImageError
from ftx.data.image_store import ImageLike, OpenImageFile
from ftx.data.preprocess import Pixels
from ftx.runs.artifacts import IR_FILE, RuntimeName
from ftx.runs.card_json import read_card
from ftx.runs.compute_precision import ComputePrecision, Dtype
from ftx.runs.machine import InstructionSet, Kernels, environment, is_emulated, this_set
from ftx.runtimes import release_process
from ftx.runtimes.openvino import frame, graph_input
from ftx.runtimes.predictor import feed_files
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.thresholds import Floats


class OtherRelease:
    """A ``Predictor`` of an IR folder, by the OpenVINO in ``home``, in a process limited to an instruction set.

    ``version`` is OpenVINO's. It is closed at the end of a ``with`` block.
    """

    name: RuntimeName = "openvino"
    uncertainty: Uncertainty | None = None

    def __init__(self, folder: Path, home: Path, isa: InstructionSet) -> None:
        """Start the process and compile the model. Raises: ExportError if that OpenVINO cannot."""
        card = read_card(folder)
        self.folder, self.preprocess, self.task = folder, card.preprocess, card.meaning.open()
        self.model_info: dict[str, str] = {}
        self._isa: InstructionSet = isa
        self._process = subprocess.Popen(
            # -I -S: it finds only what is in ``home``.
            [sys.executable, "-I", "-S", release_process.__file__, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment(isa) if isa != this_set() else {})},
        )
        facts = self._send({"model": str(folder / IR_FILE), "device": "CPU", "properties": {}})
        self.version = str(facts["version"])
        self.compute = ComputePrecision(cast("Dtype", facts["compute"]), chosen_by_runtime=True)
        self._primitives: Mapping[str, int] = facts["primitives"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def kernels(self) -> Kernels:
        """What computes the products."""
        return Kernels(self._isa, is_emulated(self._isa), self._primitives)

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """As in ``Predictor``."""
        return self._logits(frame(pixels_NHWC, self.preprocess))

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """As in ``Predictor``: the graph resizes, crops and normalises."""

        def decode(image: OpenImageFile) -> Pixels:
            return graph_input(image.decode(), self.preprocess)

        given = (one if isinstance(one, ImageError) else OpenImageFile(one) for one in images)
        return feed_files(given, decode, self._logits)

    def _logits(self, pixels_NHWC: Pixels) -> Floats:
        pixels_NHWC = np.ascontiguousarray(pixels_NHWC, np.uint8)
        shape = self._send({"shape": pixels_NHWC.shape}, pixels_NHWC.tobytes())["shape"]
        return np.frombuffer(self._pipe.read(4 * math.prod(shape)), np.float32).reshape(shape)

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _send(self, request: Mapping[str, object], data: bytes = b"") -> Mapping[str, Any]:
        """The reply to a request, without the bytes after it.

        Raises: ExportError for an error, or if the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + data)
            self._process.stdin.flush()
            reply = json.loads(self._pipe.readline())
        except (OSError, ValueError):
            reply = {"error": f"its process ended with status {self._process.wait()}"}
        if "error" in reply:
            self.close()
            raise ExportError(
                "this OpenVINO cannot run the model",
                where=self.folder,
                found=str(reply["error"]),
                fix="use another version of OpenVINO on the device, or export again: ftx export",
            )
        return reply
