"""``adapter_config.json``: what peft writes of an adapter, and which of its kinds merge here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ftx.errors import AdapterError

CONFIG = "adapter_config.json"

# Keys by which peft makes another adapter of it than W + s·B·A, or trains more than that.
_OTHER_KINDS = (
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
    "velora_config",
    "kasa_config",
)
# Ways to begin that leave the base as it was; pissa, olora, corda, loftq and lora_ga take something off it first, which
# the file does not hold.
_BASE_UNTOUCHED = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class PeftConfig:
    """One adapter's config; names are those of the library that it was trained with."""

    path: Path
    rank: object
    alpha: object
    rank_pattern: Mapping[str, object]
    alpha_pattern: Mapping[str, object]
    dora: bool
    rslora: bool
    targets: str | Sequence[str]
    excluded: str | Sequence[str]
    saved: Sequence[str]
    blocks: Sequence[int]
    blocks_pattern: Sequence[str]
    base_model: str | None
    base_digest: str | None

    def rank_and_scaling(self, name: str) -> tuple[int, float]:
        """Of one layer: its rank r, and alpha / r or, with rsLoRA, alpha / √r."""
        rank = int(self._number("r", self.rank, self.rank_pattern, name))
        alpha = self._number("lora_alpha", self.alpha, self.alpha_pattern, name)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)

    def targets_layer(self, name: str) -> bool:
        """Whether peft, by its rules, put an adapter into a layer of this name."""
        if self.saves(name) or self._is_named(name, self.excluded):
            return False
        if not self._is_named(name, self.targets):
            return False
        if not self.blocks or isinstance(self.targets, str) or name in self.targets:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}" for pattern in self.blocks_pattern] or [r".*?\.[^.]*"]
        numbered = next((found for one in patterns if (found := self._match(rf"{one}\.(\d+)\.", name))), None)
        return numbered is not None and int(numbered[1]) in self.blocks

    def saves(self, name: str) -> bool:
        """Whether a module of this name, or one around it, was trained and saved whole."""
        return any(self._match(rf"(?:^|.*\.){saved}(?:$|\.)", name) for saved in self.saved)

    def _is_named(self, name: str, names: str | Sequence[str]) -> bool:
        if isinstance(names, str):
            return self._match(rf"(?:{names})$", name) is not None
        return any(name == one or name.endswith(f".{one}") for one in names)

    def _number(self, key: str, default: object, pattern: Mapping[str, object], name: str) -> float:
        exceptions = (value for one, value in pattern.items() if self._match(rf"(?:.*\.)?(?:{one})$", name))
        value = next(exceptions, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise AdapterError(
                f"the adapter's {key} is no positive number", where=self.path, found=f"{value!r} for {name}"
            )
        return float(value)

    def _match(self, expression: str, name: str) -> re.Match[str] | None:
        try:
            return re.match(expression, name)
        except re.error as error:
            raise AdapterError(
                "an expression of the adapter's config cannot be read", where=self.path, found=f"{expression}: {error}"
            ) from error


def read_config(folder: Path) -> PeftConfig:
    """Read an adapter's config.

    Raises: AdapterError if it is none, or of a kind that is not W + s·B·A, or its B·A is relative to a changed base.
    """
    path = folder / CONFIG
    try:
        document: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise AdapterError(
            "this folder is no adapter", where=folder, found=f"no {CONFIG}", mend="name a folder that peft or ftx wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise AdapterError("the adapter's config cannot be read", where=path, found=str(error)) from error
    if not isinstance(document, dict):
        raise AdapterError("the adapter's config is no mapping", where=path)
    config = cast("dict[str, object]", document)
    _refuse_other_kinds(config, path)
    note = config.get("ftx")
    digest = cast("dict[str, object]", note).get("base_digest") if isinstance(note, dict) else None
    base_model = config.get("base_model_name_or_path")
    transformed = config.get("layers_to_transform")
    return PeftConfig(
        path=path,
        rank=config.get("r"),
        alpha=config.get("lora_alpha"),
        rank_pattern=_mapping(config, "rank_pattern", path),
        alpha_pattern=_mapping(config, "alpha_pattern", path),
        dora=bool(config.get("use_dora")),
        rslora=bool(config.get("use_rslora")),
        targets=_names(config, "target_modules", path),
        excluded=_names(config, "exclude_modules", path),
        saved=_listed(_names(config, "modules_to_save", path)),
        blocks=[int(str(one)) for one in (transformed if isinstance(transformed, list) else [transformed])]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if transformed is not None
        else [],
        blocks_pattern=_listed(_names(config, "layers_pattern", path)),
        base_model=base_model if isinstance(base_model, str) and base_model else None,
        base_digest=digest if isinstance(digest, str) else None,
    )


def _refuse_other_kinds(config: Mapping[str, object], path: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            "only LoRA and DoRA adapters merge",
            where=path,
            found=f"peft_type {kind}",
            mend="merge it with peft (merge_and_unload) and train or export from that model",
        )
    if other := [key for key in _OTHER_KINDS if config.get(key)]:
        raise AdapterError("an adapter of a kind that ftx does not merge", where=path, found=", ".join(other))
    if config.get("bias", "none") != "none":
        raise AdapterError("an adapter with trained biases", where=path, found=f"bias {config['bias']}")
    start = config.get("init_lora_weights")
    if start not in _BASE_UNTOUCHED:
        raise AdapterError(
            "the adapter is one of a changed base, which the file does not hold",
            where=path,
            found=f"init_lora_weights {start}",
            mend="let peft convert it when saving: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def _mapping(config: Mapping[str, object], key: str, path: Path) -> Mapping[str, object]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"the adapter's {key} is no mapping", where=path, found=str(value))
    return cast("dict[str, object]", value)


def _names(config: Mapping[str, object], key: str, path: Path) -> str | Sequence[str]:
    value = config.get(key)
    if value is None or isinstance(value, str):
        return value or ()
    if isinstance(value, list) and all(isinstance(one, str) for one in cast("list[object]", value)):
        return cast("list[str]", value)
    raise AdapterError(f"the adapter's {key} is no list of names", where=path, found=str(value))


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
