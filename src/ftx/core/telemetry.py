"""Keep OpenVINO, NNCF and ONNX Runtime from reporting their use and from leaving files in the user's home folder.

Each does so at its first import already: openvino/tools/ovc sends "general_import" to Intel and writes a client id to
~/intel; ONNX Runtime 1.32 writes a device id and a queue of events to ~/.cache/Microsoft, and sends them to Microsoft.
Whoever imports one of them in ftx does it inside ``no_telemetry``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# openvino_telemetry (utils/opt_in_checker.py) holds still where CI is "true", nncf (telemetry/wrapper.py)
# where NNCF_CI is set. Neither has a setting of its own that leaves no file. ONNX Runtime has.
_HOLD_STILL = {"CI": "true", "NNCF_CI": "1", "ORT_DISABLE_TELEMETRY": "1"}


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Pretend, for this block, to be a build machine; the environment is as before afterwards."""
    before = {name: os.environ.get(name) for name in _HOLD_STILL}
    os.environ.update(_HOLD_STILL)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
