"""The device that OpenVINO runs a model on: the CPU, a GPU, an NPU, or AUTO, which chooses one of them.

``GPU.1`` is the second GPU, and ``AUTO:GPU,CPU`` chooses one of the two. AUTO may run the first requests on the CPU
while it compiles the model for another device.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from ftx.core.errors import EnvironmentFault, InputError
from ftx.core.third_parties import no_telemetry
from ftx.runs.machine import CPU

with no_telemetry():
    import openvino

# In which AUTO compiles a ViT-S for another device.
AUTO_PAUSE_S = 10.0
DEVICES = (CPU, "GPU", "NPU", "AUTO")
_ONE = r"(CPU|GPU|NPU)(\.\d{1,2})?"
_NAME = re.compile(rf"{_ONE}|AUTO(:{_ONE}(,{_ONE})*)?")


def check_device(device: str, core: openvino.Core) -> None:
    """Check the name of a device, and that OpenVINO finds it, or one of those that AUTO may choose.

    Raises: InputError for another name; EnvironmentFault if there is no such device.
    """
    if not _NAME.fullmatch(device):
        raise InputError(f"--device must be one of {', '.join(DEVICES)}", found=device, fix=f"use --device {CPU}")
    named = [one for one in device.removeprefix("AUTO").lstrip(":").split(",") if one]
    if device == CPU or not named:
        return
    present = core.available_devices
    if not any(one == name or one.startswith(f"{name}.") for name in named for one in present):
        raise EnvironmentFault(
            f"OpenVINO finds no device {device} on this machine",
            found=", ".join(present),
            fix=f"install the driver of the device, or use --device {CPU}",
        )


def takes_one_image(device: str) -> bool:
    """Whether a network for it must have only known shapes: those of one image."""
    return "NPU" in device


def repeated(device: str) -> Iterator[None]:
    """Once; twice with a pause on AUTO: it may run its first requests on the CPU, and later ones on another device."""
    yield
    if device.startswith("AUTO"):
        time.sleep(AUTO_PAUSE_S)
        yield


def property_of(compiled: openvino.CompiledModel, name: str) -> Any:
    """A property of a compiled model; with AUTO that of the device that it has chosen; None if there is none."""
    try:
        return compiled.get_property(name)
    except RuntimeError:  # AUTO has only a few
        pass
    try:
        of_devices: dict[str, dict[str, Any]] = compiled.get_property("DEVICE_PROPERTIES")
    except RuntimeError:
        return None
    return next((known[name] for known in of_devices.values() if name in known), None)
