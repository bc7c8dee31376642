"""Runs an exported model with another release of OpenVINO: a program of its own, in which ftx is not installed.

``python -I -S release_process.py FOLDER``: FOLDER has openvino and numpy, as ``pip install --target`` puts them. The
first line on stdin is JSON: ``model``, ``device`` and ``properties``. The reply is a line of JSON: the ``version``,
the precision (``compute``) and the ``primitives`` that compute products; or an ``error``. Then a line with a ``shape``
[N, H, W, 3] and as many bytes are images. The reply is a line with the shape [N, C] and logits in f32; or an ``error``,
and the end.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Run the images until the input ends."""
    sys.path.insert(0, sys.argv[1])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply

    def reply(document: object, data: bytes = b"") -> None:
        replies.write(json.dumps(document).encode() + b"\n" + data)
        replies.flush()

    try:
        compiled, facts = _compiled(json.loads(sys.stdin.buffer.readline()))
        reply(facts)
        _run(compiled, reply)
    except Exception as error:
        reply({"error": " ".join(str(error).split())[:400] or type(error).__name__})
    os._exit(0)


def _run(compiled: Any, reply: Callable[[object, bytes], None]) -> None:
    import numpy as np

    while line := sys.stdin.buffer.readline():
        shape = json.loads(line)["shape"]
        images_NHWC = np.frombuffer(sys.stdin.buffer.read(math.prod(shape)), np.uint8).reshape(shape)
        logits_NC = np.array(compiled(images_NHWC)[compiled.output(0)], np.float32)
        reply({"shape": logits_NC.shape}, logits_NC.tobytes())


def _compiled(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(given["model"]), given["device"], given["properties"])
    hint = compiled.get_property("INFERENCE_PRECISION_HINT")
    return compiled, {
        "version": openvino.__version__.partition("-")[0],
        "compute": hint.to_string() if hasattr(hint, "to_string") else hint.get_type_name(),
        "primitives": primitives(compiled),
    }


def primitives(compiled: Any) -> dict[str, int]:
    """What computes the products of a compiled model: how many of each of oneDNN's primitives, by name."""
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if _is_product(info["layerType"].astype(str), info["originalLayersNames"].astype(str)):
            found[info["primitiveType"].astype(str)] += 1
    return dict(sorted(found.items()))


def _is_product(kind: str, made_of: str) -> bool:
    """Whether a node of a compiled model multiplies matrices; attention in one piece is a subgraph made of one."""
    return kind in ("FullyConnected", "Convolution", "MatMul", "ScaledDotProductAttention") or (
        kind == "Subgraph" and "scaled_dot_product" in made_of
    )


if __name__ == "__main__":
    main()
