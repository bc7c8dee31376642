"""The table of flags and arguments: each verb's, with a value and what comes of it that is seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.effects import of_artifacts, of_curating, of_merging, of_program, of_train
from tests.effects.lab import Lab
from tests.effects.of_train import as_json, sets, switches


@dataclass(frozen=True)
class Flag:
    """A flag (or an argument, by its metavar) after its verb, a value, what is seen, and the check that sees it."""

    name: str
    value: str
    seen: str
    check: Callable[[Lab, str, str], None]
    slow: bool = False


def _key(flag: str, value: str, key: str, expected: object, *more: str) -> Flag:
    return Flag(f"train {flag}", value, f"{key} of recipe.yaml, and no other key", sets(key, expected, *more))


FLAGS = (
    Flag("--version", "", "the version", of_program.version),
    Flag("--debug", "", "the traceback of an error", of_program.debug),
    Flag("--show-completion", "", "a script for bash", of_program.show_completion),
    Flag("--install-completion", "", "files in the home folder", of_program.install_completion),
    Flag("data check PATH", "flat", "its counts", of_train.check_path),
    Flag("data check --task", "multilabel", "the task, as it was named", of_train.check_task),
    Flag("data check --format", "voc", "datumaro is asked, exit status 3 or 2", of_train.check_format),
    Flag("data check --json", "", "one object", as_json("data", "check", "noise", verb="data check")),
    Flag("data look DATA", "hues", "its images", of_curating.data),
    Flag("data look --task", "multilabel", "the task", of_curating.task),
    Flag("data look --format", "voc", "datumaro is asked, exit status 3 or 2", of_curating.form),
    Flag("data look --model", "test_vit2", "other probes", of_curating.model),
    Flag("data look --weights", "FILE", "status 0, of another network 2", of_curating.weights),
    Flag("data look --image-size", "48x32", "the size of the features' images", of_curating.image_size),
    Flag("data look --out", "named.csv", "the table; status 2 for a file of someone else", of_curating.out),
    Flag("data look --port", "a free one", "the page there; status 3 where it is taken", of_curating.port, slow=True),
    Flag("data look --open", "", "a browser with the page", of_curating.open_, slow=True),
    Flag("data look --json", "", "one object, and no page", of_curating.as_object),
    Flag("train --config", "multiclass-linear", "the recipe's method", of_train.config),
    Flag("train --data", "flat", "its labels", of_train.data),
    _key("--task", "multilabel", "task", "multilabel"),
    _key("--model", "test_vit2", "model.name", "test_vit2"),
    Flag("train --weights", "FILE", "model.weights of recipe.yaml, and no other key", of_train.weights),
    _key("--image-size", "48x32", "data.image_size", "48x32"),
    _key("--peft", "dora", "model.peft", "dora"),
    Flag(
        "train --freeze-backbone", "", "the key on, with --no- off", switches("model.freeze_backbone", "--peft", "none")
    ),
    _key("--rank", "3", "adapter.rank", 3),
    _key("--alpha", "10", "adapter.alpha", 10.0),
    Flag("train --rslora", "", "the key on, with --no- off", switches("adapter.rslora")),
    _key("--targets", "v,fc2", "adapter.targets", ["v", "fc2"]),
    _key("--blocks", "0,3-4", "adapter.blocks", [0, 3, 4]),
    _key("--layers", r".*\.fc1", "adapter.layers", r".*\.fc1"),
    _key("--dropout", "0.5", "adapter.dropout", 0.5),
    _key("--epochs", "2", "train.epochs", 2),
    _key("--lr", "0.02", "train.lr", 0.02),
    _key("--batch-size", "2", "train.batch_size", 2),
    _key("--augment", "light", "train.augment", "light"),
    _key("--precision", "bf16", "train.precision", "bf16"),
    _key("--seed", "1", "seed", 1),
    Flag("train --set", "train.weight_decay=0.25", "the key of recipe.yaml", of_train.set_),
    Flag("train --out", "named", "the run's folder; status 2 where it is taken", of_train.out),
    Flag("train --resume", "a run that SIGTERM ended", "the bytes of one that nobody ended", of_train.resume),
    Flag("train --strict", "", "status 2 for another number of labels", of_train.strict),
    Flag("train --dry-run", "", "what would train, and no folder", of_train.dry_run),
    Flag("train --json", "", "one object", as_json("train", "--config", "base.yaml", "--dry-run", verb="train")),
    Flag("merge RUN", "a run", "dense/ in it, and not in the newest", of_merging.run),
    Flag("merge --data", "where it lies now", "proved on held-out images, not on noise", of_merging.data),
    Flag("merge --adapter", "two runs", "W + Δ/2 + Δ/2", of_merging.adapter),
    Flag("merge --base", "a timm folder", "status 0, without it 2", of_merging.base),
    Flag("merge --weights", "FILE", "status 0, with another file 2", of_merging.weights),
    Flag("merge --image-size", "48", "10 positions instead of 101", of_merging.image_size),
    Flag("merge --shares", "0.75,0.25", "W + 3/4 Δ + 1/4 Δ", of_merging.shares),
    Flag("merge --combine", "ties", "the largest fifth, signs elected, by the paper's rule", of_merging.combine),
    Flag("merge --density", "0.05", "a twentieth of the weights changes, not a fifth", of_merging.density),
    Flag("merge --labels", "u,v", "label_names of config.json", of_merging.labels),
    Flag("merge --no-head", "", "no head in model.safetensors", of_merging.no_head),
    Flag("merge --out", "elsewhere", "the folder", of_merging.out),
    Flag("merge --json", "", "one object", of_merging.as_object),
    Flag("export RUN", "a run", "the artifacts in it", of_artifacts.export_run, slow=True),
    Flag("export --format", "onnx", "onnx/ and no IR", of_artifacts.export_format, slow=True),
    Flag("export --precision", "fp16", "an IR of half the size", of_artifacts.export_precision, slow=True),
    Flag("export --data", "where it lies now", "status 0, without it 2", of_artifacts.export_data, slow=True),
    Flag("export --recover", "", "a new run, nearer to the old one in 8 bits", of_artifacts.export_recover, slow=True),
    Flag("export --explain", "", "a map beside the same logits", of_artifacts.export_explain, slow=True),
    Flag("export --json", "", "one object", of_artifacts.export_json, slow=True),
    Flag("export --base", "a folder", "a base, and no model to predict with", of_artifacts.export_base, slow=True),
    Flag("export --as-update", "a file", "its base becomes the model", of_artifacts.export_as_update, slow=True),
    Flag("export --after", "an update", "the next sequence", of_artifacts.export_after, slow=True),
    Flag("apply ADAPTER", "an update; a folder", "proof asked; unproved", of_artifacts.apply_adapter, slow=True),
    Flag("apply BASE_IR", "a base", "status 2 for what is none", of_artifacts.apply_base, slow=True),
    Flag("apply OUT_IR", "a folder", "the server's file", of_artifacts.apply_out, slow=True),
    Flag("apply --labels", "u,v,w,x", "the labels of predict", of_artifacts.apply_labels, slow=True),
    Flag("apply --rollback", "a model", "the update before", of_artifacts.apply_rollback, slow=True),
    Flag("apply --json", "", "one object", of_artifacts.apply_json, slow=True),
    Flag("validate RUN|IR", "a run; an IR", "rows of all; of the one", of_artifacts.validate_target, slow=True),
    Flag("validate --data", "where it lies now", "status 0, without it 2", of_artifacts.validate_data, slow=True),
    Flag(
        "validate --bound",
        "fp16.graph.max_abs=1e-9",
        "that row fails, status 1",
        of_artifacts.validate_bound,
        slow=True,
    ),
    Flag("validate --images", "3", "3 images in each row, and not whole", of_artifacts.validate_images, slow=True),
    Flag("validate --max-drop", "0.5", "fp16 proved instead of unproved", of_artifacts.validate_max_drop, slow=True),
    Flag(
        "validate --require-proof", "", "status 1 for what is unproved", of_artifacts.validate_require_proof, slow=True
    ),
    Flag("validate --isa", "native,avx2", "a verdict in each set", of_artifacts.validate_isa, slow=True),
    Flag("validate --json", "", "one object", of_artifacts.validate_json, slow=True),
    Flag("eval RUN", "a run", "its images", of_artifacts.eval_run),
    Flag("eval --artifact", "dense", "torch answers instead of openvino", of_artifacts.eval_artifact, slow=True),
    Flag("eval --data", "where it lies now", "status 0, without it 2", of_artifacts.eval_data),
    Flag("eval --json", "", "one object", of_artifacts.eval_json),
    Flag("predict IMAGES", "good and broken", "an answer each in order, status 4", of_artifacts.predict_images),
    Flag(
        "predict --artifact",
        "dense; IR; another run",
        "other scores; other labels",
        of_artifacts.predict_artifact,
        slow=True,
    ),
    Flag(
        "predict --watch",
        "a folder",
        "what lies in it, and that once",
        of_artifacts.predict_watch,
        slow=True,
    ),
    Flag("predict --scores", "", "a score of each label, 1 together", of_artifacts.predict_scores),
    Flag("predict --json", "", "a line an image", of_artifacts.predict_json),
    Flag("explain IMAGES", "good and broken", "a picture each, status 4", of_artifacts.explain_images),
    Flag("explain --artifact", "dense; another run", "its labels", of_artifacts.explain_artifact, slow=True),
    Flag("explain --method", "rollout", "another picture, of no label", of_artifacts.explain_method),
    Flag("explain --label", "b", "the picture of b alone", of_artifacts.explain_label),
    Flag("explain --out", "a folder", "pictures there", of_artifacts.explain_out),
    Flag("explain --json", "", "one object", of_artifacts.explain_json),
    Flag("bench RUN|IR", "a run; an IR", "the rows of its models; of the one", of_artifacts.bench_target, slow=True),
    Flag("bench --precision", "fp16", "rows of fp16 alone", of_artifacts.bench_precision, slow=True),
    Flag("bench --compute", "f32", "no row of what OpenVINO chooses", of_artifacts.bench_compute, slow=True),
    Flag("bench --batch", "3", "rows of three images", of_artifacts.bench_batch, slow=True),
    Flag("bench --threads", "1", "rows of one thread", of_artifacts.bench_threads, slow=True),
    Flag("bench --streams", "1", "rows of one stream", of_artifacts.bench_streams, slow=True),
    Flag("bench --seconds", "0.6", "more requests than in 0.03", of_artifacts.bench_seconds, slow=True),
    Flag("bench --save", "", "tuning.json beside the model", of_artifacts.bench_save, slow=True),
    Flag("bench --json", "", "one object", of_artifacts.bench_json, slow=True),
    Flag("run NAME|FILE", "a recipe", "its model and method", of_program.run_recipe, slow=True),
    Flag("run --data", "hues", "four labels", of_program.run_data, slow=True),
    Flag("run --precision", "fp16", "onnx and fp16 alone", of_program.run_precision, slow=True),
    Flag("run --set", "train.epochs=2", "two epochs", of_program.run_set, slow=True),
    Flag("run --out", "piped", "the folder", of_program.run_out, slow=True),
    Flag("run --strict", "", "status 2 for another number of labels", of_program.run_strict),
    Flag("run --require-proof", "", "status 1 for what is unproved", of_program.run_require_proof, slow=True),
    Flag("run --json", "", "one object", of_program.run_json, slow=True),
    Flag("adapters DIR...", "two runs", "the change of each: |s B A| / |W|", of_merging.adapters),
    Flag("adapters --base", "a timm folder", "status 0, without it 2", of_merging.adapters_base),
    Flag("adapters --weights", "FILE", "status 0, with another file 2", of_merging.adapters_weights),
    Flag("adapters --layers", "", "a line a layer", of_merging.adapters_layers),
    Flag("adapters --json", "", "one object", of_merging.adapters_json),
    Flag("models PATTERN", "swinv2_tiny", "two models instead of all", of_program.models_pattern),
    Flag("models --json", "", "one object", of_program.models_json),
    Flag("recipes --json", "", "one object", of_program.recipes_json),
    Flag("quickstart --task", "hierarchical", "that task's sample", of_program.quickstart_task, slow=True),
    Flag("quickstart --out", "taken", "status 2 for a folder that is there", of_program.quickstart_out, slow=True),
    Flag("quickstart --json", "", "one object, of an error too", of_program.quickstart_json),
    Flag("schema VERB", "eval", "that verb's schema", of_program.schema),
)
