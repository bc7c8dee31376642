"""Sections that all model cards have, in the words of the hub's cards."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import EvalResult

from ftx.core.version import __version__
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.task_names import TASK_FACTS, TaskName

MERGED = "It needs no adapter library: timm and transformers open it as it is."
# Of each model, after those of its task.
_LIMITS = (
    "On images that differ from the training images (another camera, light or background) it may be less accurate.",
    "A score is not a probability. The report of `ftx report` shows how far it can be read as one.",
)


def description(meaning: Meaning | None) -> str:
    """What the model does; without ``meaning`` it has no head."""
    made = f"It was made with ftx {__version__}."
    if meaning is None:
        return f"This model computes features of images. It has no labels. {made}"
    return f"This model {TASK_FACTS[meaning.task].predicts}. It has {len(meaning.labels)} labels. {made}"


def details(facts: Sequence[Sequence[str]]) -> str:
    """The table of properties and their values."""
    return f"## Model details\n\n{table(('property', 'value'), facts)}"


def evaluation(results: Sequence[EvalResult]) -> str:
    """How accurate the model is on validation images."""
    rows = [(f"`{one.metric_type}`", f"{one.metric_value:.4f}") for one in results]
    explained = "On the validation images. They also chose the epoch, so these values may be slightly too high."
    return f"## Evaluation results\n\n{explained}\n\n{table(('metric', 'value'), rows)}"


def limitations(task: TaskName, *more: str) -> str:
    """What the model cannot do."""
    lines = [TASK_FACTS[task].limits, *_LIMITS, *more]
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(text: str) -> str:
    """Text as it is, whatever Markdown would make of its characters."""
    return "".join(f"&#{ord(one)};" if one in "\\`*_{}[]<>#|&!~$\n" else one for one in text)
