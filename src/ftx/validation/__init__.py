"""The gate: every exported artifact against the trained model."""

from __future__ import annotations

from ftx.validation.parity import validate
from ftx.validation.report import ParityReport, ParityRow
from ftx.validation.tolerance import Bounds

__all__ = ["Bounds", "ParityReport", "ParityRow", "validate"]
