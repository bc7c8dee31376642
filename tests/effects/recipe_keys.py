"""The table of recipe keys: a value of each, and what comes of it that is seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.effects import of_models, of_program, of_training
from tests.effects.lab import A_WHILE, LONG, Lab


@dataclass(frozen=True)
class Key:
    """A recipe key, a value other than its default, what is seen, and the check that sees it."""

    key: str
    value: str
    seen: str
    check: Callable[[Lab, str], None]
    takes: str = ""  # the mark of its test


KEYS = (
    Key("task", "multilabel", "labels that hold or not, a sigmoid each, chosen by mAP", of_models.task),
    Key("task", "multilabel", "thresholds of the best F1 in run.json", of_models.tuned_thresholds),
    Key("seed", "1", "other bytes; the same seed, the same bytes", of_models.seed, takes=A_WHILE),
    Key("data.path", "flat", "its labels and folder in run.json", of_models.data_path),
    Key("data.format", "voc", "datumaro is asked, exit status 3 or 2", of_models.data_format),
    Key("data.follow_links", "true", "the images behind links; else status 2", of_models.follow_links),
    Key("data.image_size", "48x32", "7 positions instead of 5", of_models.image_size),
    Key("data.val_fraction", "0.5", "10 images held out instead of 4", of_models.val_fraction),
    Key("data.classes", "3", "a note, and exit status 2 with --strict", of_models.classes),
    Key("model.name", "test_vit2", "its architecture and register tokens", of_models.model_name),
    Key("model.weights", "FILE", "the file's tensors, another base digest", of_models.model_weights),
    Key("model.peft", "dora", "magnitudes beside A and B; none: the whole model", of_models.peft),
    Key("model.freeze_backbone", "true", "the head's two tensors alone", of_models.freeze_backbone),
    Key("model.from_run", "RUN", "that run's tensors, standing still", of_models.from_run),
    Key(
        "model.keep_tokens",
        "{2: 0.5, 4: 0.5}",
        "the loss of a choice by hand between timm's blocks",
        of_models.keep_tokens,
    ),
    Key("adapter.rank", "3", "A of 3 rows, B of 3 columns, r 3", of_models.rank),
    Key("adapter.alpha", "10", "W' - W = 10/4 B A", of_models.alpha),
    Key("adapter.targets", "v,fc2", "layers of those targets, zeros in the rows of q and k", of_models.targets),
    Key("adapter.blocks", "2", "blocks 4 and 5 of six", of_models.blocks),
    Key("adapter.layers", r"blocks\.[03]\.mlp\.fc1", "the two layers named", of_models.layers),
    Key("adapter.init", "pissa", "s B A = the weight's first four singular values", of_models.init),
    Key("adapter.dropout", "0.5", "the same first loss, another second one", of_models.dropout),
    Key("adapter.rslora", "true", "W' - W = 6/√4 B A", of_models.rslora),
    Key("train.epochs", "3", "3 lines of train.jsonl, the best of them kept", of_training.epochs),
    Key("train.batch_size", "2", "four steps instead of one: decay of 0.880 instead of 0.95", of_training.batch_size),
    Key("train.accumulation_steps", "4", "four passes of two images, the same step", of_training.accumulation_steps),
    Key("train.activation_checkpointing", "true", "blocks computed twice, the same bytes", of_training.recomputed),
    Key("train.lr", "0.02", "B of 0.02 after one step", of_training.learning_rate),
    Key("train.lr", "auto", "B of 1e-3 after one step; 5e-3 linear, 2e-5 full", of_training.automatic_rate),
    Key("train.lora_plus", "16", "B of 16 · 0.01 after one step, A of 0.372 · 0.01 after two", of_training.lora_plus),
    Key("train.weight_decay", "5e6", "matrices shrink by 1 - 1e-8 · 5e6, vectors do not", of_training.weight_decay),
    Key("train.precision", "bf16", "logits of 8 bits, and the report says so", of_training.precision),
    Key("train.warmup_share", "0.25", "rates of 1 1 .933 .75 .5 .25 .067 0", of_training.warmup_share),
    Key("train.loss", "bce", "the loss by its formula from the scores", of_training.loss),
    Key("train.label_smoothing", "0.3", "the loss by its formula from the scores", of_training.label_smoothing),
    Key("train.balance", "loss", "the loss with weights of 22/40 and 22/4", of_training.balance_by_loss),
    Key("train.balance", "sampling", "the rare tenth is half of what is drawn", of_training.balance_by_sampling),
    Key("train.patch_dropout", "0.5", "another loss, and the same on validation images", of_training.patch_dropout),
    Key("train.augment", "light", "another loss of noise, the same of one colour", of_training.augment),
    Key("train.cache_views", "2", "in the third epoch the loss of the first", of_training.cache_views),
    Key("train.cache_gb", "0", "nothing in the user's cache, and a note", of_training.cache_gb),
    Key(
        "train.frozen_runtime",
        "openvino",
        "its model in the user's cache",
        of_training.frozen_runtime,
        takes=A_WHILE,
    ),
    Key("train.compile", "blocks", "code in the user's cache, the same loss", of_training.compile_blocks, takes=LONG),
    Key("train.checkpoint_minutes", "0", "the state after each step", of_training.checkpoint_minutes),
    Key("train.head_init", "probe", "linear probing in one line of train.jsonl, no steps", of_training.head_init),
    Key("train.patience", "2", "3 epochs instead of 6", of_training.patience),
    Key("validate.max_drop", "0.9", "the margin of ftx validate", of_program.max_drop),
    Key("train.tensorboard", "true", "reports/tensorboard", of_training.tensorboard),
)
