"""Libraries kept from unwelcome side effects: reports of their use, files in the home folder, and warnings.

OpenVINO, NNCF and ONNX Runtime report their use at their first import: openvino/tools/ovc sends "general_import" to
Intel and writes a client id to ~/intel; ONNX Runtime 1.32 writes a device id and a queue of events to
~/.cache/Microsoft, and sends them to Microsoft. ftx imports each of them inside ``no_telemetry``.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# openvino_telemetry (utils/opt_in_checker.py) does nothing where CI is "true", nncf (telemetry/wrapper.py)
# where NNCF_CI is set. Neither has a setting of its own that leaves no file. ONNX Runtime has.
_TELEMETRY_OFF = {"CI": "true", "NNCF_CI": "1", "ORT_DISABLE_TELEMETRY": "1"}


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Pretend, for this block, to be a build machine; the environment is as before afterwards."""
    before = {name: os.environ.get(name) for name in _TELEMETRY_OFF}
    os.environ.update(_TELEMETRY_OFF)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def quiet_third_parties() -> Iterator[None]:
    """Drop warnings that torch, onnxscript and openvino raise or log about one another: the user cannot fix them."""
    with only_errors_of("onnxscript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def only_errors_of(name: str) -> Iterator[None]:
    """Drop what a logger logs below errors; its level is as before afterwards."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
