"""Model cards: ``README.md`` with the hub's front matter, written from what was measured.

Dates, timings and paths stay out: the same recipe gives the same card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.pissa import file_note
from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.kept_tokens import ALL_TOKENS, TokenFractions
from ftx.core.errors import RunError
from ftx.core.files import write_atomic
from ftx.core.shipped_files import BUNDLED, ORIGINS
from ftx.core.untrusted_input import read_file
from ftx.data.dataset import SPLITS, Dataset, Split
from ftx.data.open_dataset import class_counts
from ftx.recipe.method_defaults import METHODS
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import ModelRecipe
from ftx.recipe.strict_yaml import dump_yaml
from ftx.runs.readme_code import timm_code, trained_code, transformers_code
from ftx.runs.readme_sections import MERGED, description, details, evaluation, limitations, plain, table
from ftx.runs.run import Run
from ftx.runs.run_json import MODEL_CARD, RESTORE, InitialWeights, RecoverRecord
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.task_names import TASK_FACTS
from ftx.tasks.thresholds import Thresholds

# Those of timm's licences that the hub knows by name; the others it calls "other" and shows their name next to it.
# Source: https://huggingface.co/docs/hub/repositories-licenses
_HUB_LICENCES = frozenset("apache-2.0 mit bsd-3-clause cc-by-4.0 cc-by-nc-4.0 apple-ascl apple-amlr gemma".split())
# A card has some kilobytes, and names at most all labels.
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class KeptEpoch:
    """The epoch whose weights a training kept: its number, of how many, and what was measured on validation images."""

    number: int
    epochs: int
    metric: str
    metrics: Mapping[str, float]
    thresholds: Thresholds
    interrupted: bool


@dataclass(frozen=True)
class MergeProof:
    """How far the dense model lies from the trained one, and the bounds for it."""

    layers: int
    relative_error: float
    layer_bound: float
    logit_difference: float
    logit_bound: float
    images: str


def write_trained_card(
    folder: Path,
    recipe: Recipe,
    prepared: TrainableModel,
    dataset: Dataset,
    kept: KeptEpoch,
    recovered: RecoverRecord | None = None,
    init_from: InitialWeights | None = None,
) -> None:
    """Write the card of ``trained/``, whose other files are there."""
    backbone, results = prepared.backbone, _results(recipe, kept)
    library = "timm" if prepared.spec is None else "peft"
    meaning = Meaning(task=recipe.task, labels=dataset.labels, thresholds=kept.thresholds)
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    mean = " and its mean over three epochs" if kept.epochs > 1 else ""
    interrupted = f"; training was interrupted, the recipe has {recipe.train.epochs}" if kept.interrupted else ""
    facts = [
        ("base model", _base_named(recipe.model, backbone.architecture)),
        ("base model digest", f"`{backbone.digest}` (without the head); another base model gives other outputs"),
        ("training method", _method_named(prepared)),
        ("trained parameters", f"{prepared.trainable:,} ({size_bytes:,} bytes)"),
        ("task", f"{recipe.task}, {len(dataset.labels)} labels"),
        ("images", ", ".join(f"{len(dataset.split(split)):,} {split}" for split in _splits(dataset))),
        ("input", f"{backbone.preprocess.image_size} px, RGB"),
        *_tokens(recipe.model.token_fractions),
        ("epoch kept", f"{kept.number} of {kept.epochs}, chosen by `{kept.metric}`{mean}{interrupted}"),
    ]
    if init_from is not None:
        rows = f"which has {init_from.labels_kept} of these {len(dataset.labels)} labels"
        new = f"; new labels: {', '.join(init_from.labels_new)}" if init_from.labels_new else ""
        facts.append(("initial weights", f"`trained/` {init_from.trained[:12]}… of another run, {rows}{new}"))
    if recovered is not None:
        errors = f"error of a logit: {recovered.error_before:.3g} before, {recovered.error_after:.3g} after"
        trained = f"{recovered.steps} steps with int8 rounding, from the weights of another run"
        facts[-1] = ("recovery for int8", f"{trained}; {errors}")
    sections = [
        f"# {_title(recipe)}\n\n{description(meaning)}",
        details(facts),
        evaluation(results),
        "## How to use\n\n" + _code(trained_code(recipe, prepared, meaning), meaning),
        limitations(recipe.task),
        _labels(dataset),
        f"## Training procedure\n\n```yaml\n{dump_yaml(_essentials(recipe)).rstrip()}\n```",
    ]
    data = _front_matter(recipe, backbone.architecture, library, results, kept.metric)
    _write(folder, data, sections)


def write_dense_card(folder: Path, run: Run, proof: MergeProof) -> None:
    """Write the card of ``dense/``; its evaluation results are those in the card of ``trained/``."""
    manifest, recipe = run.manifest, run.recipe()
    results, metric = _measured_in(run.path / "trained" / MODEL_CARD)
    dataset = Dataset(root=run.path, labels=manifest.labels, entries=run.entries())
    fractions = recipe.model.token_fractions
    logits = f"Its logits differ from those of the trained model by at most {proof.logit_difference:.1e}"
    layers = layers_proved(proof.layers, proof.relative_error, proof.layer_bound) if proof.layers else ""
    facts = [
        ("base model", _base_named(recipe.model, manifest.architecture)),
        ("training method", METHODS[manifest.method].title),
        ("task", f"{manifest.task}, {len(manifest.labels)} labels"),
        ("input", f"{manifest.preprocess.image_size} px, RGB"),
        *_tokens(fractions),
    ]
    sections = [
        f"# {_title(recipe)}, merged\n\n{description(manifest.meaning)} {MERGED}",
        details(facts),
        *([evaluation(results)] if results else []),
        f"## Verification of the merge\n\n{layers}{logits} on {proof.images} (bound {proof.logit_bound:.1e}).",
        *_use(manifest.meaning, fractions),
        limitations(manifest.task),
        _labels(dataset),
    ]
    _write(folder, _front_matter(recipe, manifest.architecture, "timm", results, metric), sections)


def write_combined_card(
    folder: Path,
    architecture: str,
    parts: Sequence[tuple[str, str]],
    meaning: Meaning | None,
    proved: str,
    fractions: TokenFractions = ALL_TOKENS,
) -> None:
    """Write the card of adapters merged outside of a run; ``parts`` are what went in, name and value."""
    names = meaning.labels.names if meaning else ()
    facts = [
        ("base model", f"timm's `{architecture}`"),
        *((name, plain(value)) for name, value in parts),
        ("task", f"{meaning.task}, {len(names)} labels" if meaning else "none: a backbone without a head"),
        *_tokens(fractions),
    ]
    sections = [
        f"# {architecture} with merged adapters\n\n{description(meaning)} {MERGED}",
        details(facts),
        f"## Verification of the merge\n\n{proved}",
    ]
    if meaning:
        labels = "## Labels\n\nIn the order of the logits: " + ", ".join(map(plain, names)) + "."
        sections += [*_use(meaning, fractions), limitations(meaning.task, "Its accuracy was not measured."), labels]
    tags = ["image-classification" if meaning else "image-feature-extraction", "timm", "ftx"]
    _write(folder, ModelCardData(library_name="timm", pipeline_tag=tags[0], tags=tags), sections)


def _measured_in(card: Path) -> tuple[list[EvalResult], str]:
    """What training measured, and the metric that chose the epoch, by the card that it wrote; an older ftx wrote none.

    Raises: RunError for a card that ftx did not write so.
    """
    if not card.exists():
        return [], ""
    try:
        text = read_file(card, _MOST_BYTES).decode()
        measured = ModelCardData(**ModelCard(text).data.to_dict())
        results, metrics = measured.eval_results or [], measured.metrics or [""]
        named = [metrics[0], *(one.metric_type for one in results)]
        if not all(isinstance(one, str) for one in named) or not all(_is_figure(one.metric_value) for one in results):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("its metrics are not numbers")
    except Exception as error:  # the hub's reader raises what YAML does, and what Python says of a wrong key or type
        found = str(error).partition("\n")[0][:200] or type(error).__name__
        raise RunError("the model card of trained/ is invalid", where=card, found=found, fix=RESTORE) from error
    return results, metrics[0]


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _tokens(fractions: TokenFractions) -> list[tuple[str, str]]:
    """The fact that a model drops patches; none if all tokens stay."""
    if not fractions:
        return []
    each = [f"{100 * fraction:g} % of the patches enter block {block}" for block, fraction in fractions.items()]
    which = "the ones that the class token attends to most. timm and transformers use all patches"
    return [("tokens", f"{', of those '.join(each)}: {which}")]


def layers_proved(layers: int, relative_error: float, bound: float) -> str:
    """The sentence on the error of merged layers, against their unmerged forward."""
    return (
        f"Each of the {layers} merged layers was compared with its unmerged forward in float64, which does not use the "
        f"merged weight. The outputs differ by at most {relative_error:.1e} of the largest one (bound {bound:.0e}). "
    )


def _write(folder: Path, data: ModelCardData, sections: Sequence[str]) -> None:
    text = "\n\n".join(section.strip() for section in sections)
    write_atomic(folder / MODEL_CARD, f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{text}\n".encode())


def _front_matter(
    recipe: Recipe, architecture: str, library: str, results: list[EvalResult], metric: str
) -> ModelCardData:
    base, licence = _origin(recipe.model, architecture)
    named = licence is None or licence in _HUB_LICENCES
    return ModelCardData(
        library_name=library,
        base_model=base,
        license=licence if named else "other",
        license_name=None if named else licence,
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", recipe.method, "ftx"],
        metrics=[metric] if metric else None,
        model_name=f"{recipe.model.name}-{recipe.method}",
        eval_results=results or None,
    )


def _origin(model: ModelRecipe, architecture: str) -> tuple[str | None, str | None]:
    """The base's name on the hub and its licence, as far as they are known: a file's are not."""
    if model.weights != "auto":
        return None, None
    if model.name in BUNDLED:
        return ORIGINS[model.name]
    config = timm.get_pretrained_cfg(architecture)
    if config is None:
        return None, None
    return config.hf_hub_id, None if config.license == "unknown" else config.license


def _results(recipe: Recipe, kept: KeptEpoch) -> list[EvalResult]:
    """What was measured on validation images, each in [0, 1]."""
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="custom",
            dataset_name=recipe.data.path.name or "data",
            dataset_split="validation",
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=round(value, 4),
        )
        for name, value in kept.metrics.items()
        if math.isfinite(value)
    ]


def _labels(dataset: Dataset) -> str:
    splits = _splits(dataset)
    counts = class_counts(dataset).items()
    rows = [(plain(name), *(str(in_split.get(split, 0)) for split in splits)) for name, in_split in counts]
    return "## Labels\n\nIn the order of the logits, with the number of images.\n\n" + table(("label", *splits), rows)


def _splits(dataset: Dataset) -> list[Split]:
    return [split for split in SPLITS if dataset.split(split)]


def _title(recipe: Recipe) -> str:
    return f"{recipe.model.name} trained on {plain(recipe.data.path.stem or 'data')} ({METHODS[recipe.method].title})"


def _base_named(model: ModelRecipe, architecture: str) -> str:
    hub_id, _ = _origin(model, architecture)
    weights = {"auto": "pretrained weights", "none": "random weights"}.get(model.weights, "weights from a file")
    if hub_id is not None:
        carried = " bundled with ftx," if model.name in BUNDLED else ""
        weights = f"weights{carried} from [{hub_id}](https://huggingface.co/{hub_id})"
    return f"timm's `{architecture}`, {weights}"


def _method_named(prepared: TrainableModel) -> str:
    title = METHODS[prepared.method].title
    if prepared.spec is None:
        return title
    each = "; ".join(f"{', '.join(targets)}: {size}" for size, targets in _by_size(prepared.spec).items())
    return f"{title} in {len(prepared.layers)} layers; {each}{file_note(prepared.spec)}"


def _by_size(spec: AdapterSpec) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target, rank in spec.rank.items():
        found.setdefault(f"rank {rank}, alpha {spec.alpha[target]:g}", []).append(target)
    return found


def _essentials(recipe: Recipe) -> dict[str, object]:
    """The recipe without paths, which mean nothing elsewhere."""
    document = recipe.model_dump(mode="json", exclude={"data": {"path"}, "train": {"tensorboard"}})
    if recipe.model.weights not in ("auto", "none"):
        document["model"]["weights"] = Path(recipe.model.weights).name
    if recipe.model.peft == "none":
        del document["adapter"]
    return document


def _use(meaning: Meaning, fractions: TokenFractions) -> list[str]:
    return [
        "## How to use\n\nWith timm:\n\n" + _code(timm_code(meaning, fractions), meaning),
        f"With transformers{', which uses all patches' if fractions else ''}:\n\n"
        + _code(transformers_code(meaning), None),
    ]


def _code(lines: Sequence[str], meaning: Meaning | None) -> str:
    """Python, with a sentence on the scores of ``meaning``'s task if they need one."""
    code = "```python\n" + "\n".join(lines) + "\n```"
    reading = TASK_FACTS[meaning.task].reading if meaning else ""
    return f"{code}\n\n{reading}" if reading else code
