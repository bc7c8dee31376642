"""The gate: every exported artifact against the trained model."""

from __future__ import annotations

from ftx.evaluating.bounds import Bounds
from ftx.evaluating.parity import validate
from ftx.runs.parity_report import ParityReport, ParityRow

__all__ = ["Bounds", "ParityReport", "ParityRow", "validate"]
