"""Wheels that stand for other releases of OpenVINO: the installed one, with a fault of one instruction set or none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy
import openvino

# Where the installed openvino and numpy are.
SITE = Path(openvino.__file__).parents[1]

_MODULE = """
import os, sys
sys.path[:] = [{site!r}, *(path for path in sys.path if path != os.path.dirname(os.path.dirname(__file__)))]
del sys.modules["openvino"]
import openvino, numpy
openvino.__version__ = {version!r} + "-0-fake"
FAULT = {fault!r} if os.environ.get("ONEDNN_MAX_CPU_ISA", "") == {limit!r} else ""
if FAULT == "no start":
    raise RuntimeError("this release does not start")
if FAULT:
    true = openvino.Core
    class Compiled:
        def __init__(self, compiled): self.compiled, self.calls = compiled, 0
        def __getattr__(self, name): return getattr(self.compiled, name)
        def __call__(self, images):
            self.calls += 1
            logits = numpy.array(self.compiled(images)[0])
            if FAULT == "dies": os._exit(7)
            if FAULT == "no run": raise RuntimeError("this shape is not supported")
            if FAULT == "labels": logits = numpy.roll(logits, 1, axis=1)
            if FAULT == "logits": logits = logits + numpy.arange(logits.shape[1], dtype=numpy.float32) / 2
            if FAULT == "nan": logits[:] = numpy.nan
            if FAULT == "files" and images.shape[1:3] != {size!r}: logits = logits[:, ::-1].copy()
            if FAULT == "later" and self.calls > 1: logits = -logits
            return {{self.compiled.output(0): logits}}
    class Core:
        def __init__(self): self.core = true()
        def read_model(self, *given): return self.core.read_model(*given)
        def compile_model(self, *given): return Compiled(self.core.compile_model(*given))
    openvino.Core = Core
"""


def write_wheel(folder: Path, version: str, fault: str = "", limit: str = "", size: tuple[int, int] = (0, 0)) -> None:
    """A wheel of this version; ``fault`` is shown only in a process limited to oneDNN's set ``limit``.

    ``size`` is that of the network, whose images have no fault in ``files``.
    """
    folder.mkdir(exist_ok=True)
    name = f"openvino-{version}"
    module = _MODULE.format(site=str(SITE), version=version, fault=fault, limit=limit, size=size)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("openvino/__init__.py", module)
        wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: openvino\nVersion: {version}\n")
        wheel.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")


assert Path(numpy.__file__).parents[1] == SITE
