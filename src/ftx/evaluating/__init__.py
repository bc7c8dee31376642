"""The gate: every exported artifact against the trained model."""

from __future__ import annotations

from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.parity import validate
from ftx.runs.parity_json import ParityReport, ParityRow

__all__ = ["Bounds", "ParityReport", "ParityRow", "validate"]
