"""The dense model as a graph of tensor operations with a free batch size, from which both formats are made."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ftx.core.errors import ExportError
from ftx.core.third_parties import quiet_third_parties
from ftx.data.preprocess import Preprocess
from ftx.runtimes.predictor import LOGITS, MAPS

# In this order; a model without maps has only the first. Model API finds the others by these names.
OUTPUTS = (LOGITS, MAPS, "feature_vector")
# With a batch of 1 torch would treat the 1 as a constant of the model.
EXAMPLE_BATCH = 2


def trace(module: nn.Module, pre: Preprocess) -> ExportedProgram:
    """Record the module's operations.

    torch.export and not torch.jit.trace: the latter is deprecated, ONNX needs the former anyway, and
    OpenVINO makes the same model of both (same logits, same speed, same INT8 error to the last digit).
    Shape: normalised f32 [N, 3, H, W] -> logits [N, C], and the module's other outputs.
    Raises: ExportError if torch cannot follow the model with a free batch size.
    """
    example_NCHW = torch.zeros(EXAMPLE_BATCH, 3, pre.height, pre.width)
    try:
        with quiet_third_parties(), torch.no_grad():
            return torch.export.export(module.eval(), (example_NCHW,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:  # torch raises a dozen unrelated classes here, some private
        raise ExportError(
            "torch cannot record this model with a free batch size",
            found=str(error).partition("\n")[0],
            fix="export another architecture, or report this one",
        ) from error
