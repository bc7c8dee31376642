"""From the dense weights to files that other runtimes read: ONNX and OpenVINO IR."""

from __future__ import annotations

from ftx.exporting.export import ExportedArtifact, ExportReport, export

__all__ = ["ExportReport", "ExportedArtifact", "export"]
