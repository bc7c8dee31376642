"""``ftx schema``."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Annotated

import typer
from pydantic import BaseModel

from ftx.cli import console
from ftx.core.errors import check_known

# Name of a schema -> the module and the model of that ``--json`` object.
SCHEMAS = {
    "recipe": ("ftx.recipe.schema", "Recipe"),
    "data check": ("ftx.data.check", "DataReport"),
    "data sample": ("ftx.cli.data", "SampleReport"),
    "data shard": ("ftx.data.shards.write", "ShardReport"),
    "data look": ("ftx.curating.look", "LookReport"),
    "train": ("ftx.training", "TrainReport"),
    "dry-run": ("ftx.training", "DryRunReport"),
    "merge": ("ftx.merging.merge_and_prove", "MergeReport"),
    "merge --adapter": ("ftx.merging.combine_adapters", "CombineReport"),
    "adapters": ("ftx.merging.compare_adapters", "AdaptersReport"),
    "export": ("ftx.exporting", "ExportReport"),
    "validate": ("ftx.evaluating", "ParityReport"),
    "eval": ("ftx.evaluating.evaluate", "EvalReport"),
    "predict": ("ftx.evaluating.predict", "Prediction"),
    "predict --out": ("ftx.scaling.predict_to_file", "PredictReport"),
    "explain": ("ftx.explaining.explain", "ExplainReport"),
    "report": ("ftx.reporting.report", "ReportReport"),
    "report RUN RUN": ("ftx.reporting.compare_runs", "ComparisonReport"),
    "export --base": ("ftx.exporting.base_ir", "BaseReport"),
    "export --format ovms": ("ftx.exporting.ovms", "OvmsReport"),
    "export --as-update": ("ftx.exporting.base_ir", "UpdateReport"),
    "apply": ("ftx.updating.apply", "ApplyReport"),
    "bench": ("ftx.runs.bench_json", "BenchReport"),
    "serve": ("ftx.serving.server", "ServeReport"),
    "run": ("ftx.pipeline", "PipelineReport"),
    "runs": ("ftx.runs.inventory", "RunsReport"),
    "tune": ("ftx.tuning.report", "TuneReport"),
    "models": ("ftx.cli.models", "ModelsReport"),
    "recipes": ("ftx.cli.recipes", "RecipesReport"),
    "quickstart": ("ftx.pipeline", "PipelineReport"),
    "error": ("ftx.cli.failure", "FailureReport"),
}


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND",
            help=f"The name of a command, in quotes if it has spaces: ftx schema 'data check'. One of: "
            f"{', '.join(SCHEMAS)}. dry-run is `train --dry-run`.",
        ),
    ],
) -> None:
    """Print the JSON schema of what a command prints with --json, of an error, or of the recipe."""
    check_known("schema", [name], list(SCHEMAS))
    module, model_name = SCHEMAS[name]
    model: type[BaseModel] = getattr(import_module(module), model_name)
    console.print_line(json.dumps(model.model_json_schema(), indent=2))
