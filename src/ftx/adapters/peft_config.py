"""``adapter_config.json``: what peft writes of an adapter, and which of its kinds merge here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ftx.adapters.method import MERGE_WITH_PEFT, AdapterMethod
from ftx.adapters.method_table import METHODS
from ftx.core.errors import AdapterError, first_error, shown
from ftx.core.regular_expressions import ExpressionError, Expressions
from ftx.core.untrusted_input import MOST_DEPTH, JsonError, read_json
from ftx.recipe.method_defaults import ADAPTERS, AdapterName

SAVE_ADAPTER_AGAIN = "save the adapter again with peft or ftx"

CONFIG = "adapter_config.json"

_Rank = Annotated[int, Field(ge=1)]
_Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Names = str | Annotated[list[str], Field(max_length=MOST_DEPTH)] | None


class _Note(BaseModel):
    base_digest: str | None = None
    keep_tokens: Annotated[
        dict[Annotated[int, Field(ge=1, le=MOST_DEPTH)], Annotated[float, Field(gt=0, lt=1)]],
        Field(max_length=MOST_DEPTH),
    ] = {}


class _Document(BaseModel):
    """The keys that a merge reads, each of the type that peft writes."""

    model_config = ConfigDict(strict=True, extra="ignore")

    r: _Rank
    alpha: _Alpha
    rank_pattern: Annotated[dict[str, _Rank], Field(max_length=MOST_DEPTH)] | None = None
    alpha_pattern: Annotated[dict[str, _Alpha], Field(max_length=MOST_DEPTH)] | None = None
    use_dora: bool = False
    use_rslora: bool = False
    target_modules: _Names = None
    exclude_modules: _Names = None
    modules_to_save: Annotated[list[str], Field(max_length=MOST_DEPTH)] | None = None
    layers_to_transform: int | Annotated[list[int], Field(max_length=MOST_DEPTH)] | None = None
    layers_pattern: _Names = None
    base_model_name_or_path: str | None = None
    ftx: _Note | None = None


# By what peft calls alpha.
_DOCUMENTS: Mapping[str, type[_Document]] = {
    key: create_model(f"_Document_{key}", __base__=_Document, alpha=(_Alpha, Field(alias=key)))
    for key in {method.alpha_key for method in METHODS.values()}
}


@dataclass(frozen=True)
class PeftConfig:
    """One adapter's config; names are those of the library that it was trained with."""

    path: Path
    name: AdapterName
    document: _Document
    expressions: Expressions = field(default_factory=Expressions, compare=False, repr=False)

    @property
    def method(self) -> AdapterMethod:
        """How it is stored and merged."""
        return METHODS[self.name]

    @property
    def base_model(self) -> str | None:
        """The base by its name, as far as peft knew it."""
        return self.document.base_model_name_or_path or None

    @property
    def base_digest(self) -> str | None:
        """The digest of the base's weights; only adapters of ftx have it."""
        return self.document.ftx.base_digest if self.document.ftx else None

    @property
    def token_fractions(self) -> Mapping[int, float]:
        """The fraction of the patches that each block computed in training; nothing if all, as in peft."""
        return self.document.ftx.keep_tokens if self.document.ftx else {}

    @property
    def saved(self) -> Sequence[str]:
        """Modules that were trained and saved whole."""
        return self.document.modules_to_save or ()

    def rank(self, name: str) -> int:
        """The rank r of one layer."""
        return int(self._of_pattern(self.document.rank_pattern, self.document.r, name))

    def scaling(self, name: str, rank: int) -> float:
        """The factor s of one layer of this rank: alpha / r or, with rsLoRA, alpha / √r."""
        alpha = self._of_pattern(self.document.alpha_pattern, self.document.alpha, name)
        return alpha / (math.sqrt(rank) if self.document.use_rslora else rank)

    @property
    def listed_layers(self) -> frozenset[str]:
        """The layers by their whole names, if the config lists them: those of ftx do."""
        names = self.document.target_modules
        return self.expressions.listed_names(names) if isinstance(names, str) else frozenset()

    def targets_layer(self, name: str) -> bool:
        """Whether peft, by its rules, put an adapter into a layer of this name."""
        own = self.document
        if self.saves(name) or self._is_named(name, own.exclude_modules):
            return False
        if not self._is_named(name, own.target_modules):
            return False
        chosen = [own.layers_to_transform] if isinstance(own.layers_to_transform, int) else own.layers_to_transform
        if not chosen or isinstance(own.target_modules, str) or name in (own.target_modules or ()):
            return True
        given = [own.layers_pattern] if isinstance(own.layers_pattern, str) else own.layers_pattern
        patterns = [rf"(?:.*?\.)?{pattern}" for pattern in given or ()] or [r".*?\.[^.]*"]
        numbered = (self._match(rf"{one}\.(?P<block>\d+)\..*", name) for one in patterns)
        found = next((one for one in numbered if one is not None), None)
        return found is not None and int(found["block"]) in chosen

    def saves(self, name: str) -> bool:
        """Whether a module of this name, or one around it, was trained and saved whole."""
        return any(
            f".{saved}." in f".{name}." or self._match(rf"(?:.*\.)?{saved}(?:\..*)?", name) is not None
            for saved in self.saved
        )

    def _is_named(self, name: str, names: _Names) -> bool:
        if isinstance(names, str):
            return self._match(names, name) is not None
        return any(name == one or name.endswith(f".{one}") for one in names or ())

    def _of_pattern(self, pattern: Mapping[str, float] | None, default: float, name: str) -> float:
        """Peft's rule: the first key that is the name, or an ending of it that begins at a dot."""
        for one, value in (pattern or {}).items():
            whole = self.expressions.listed_names(one)
            if len(whole) == 1:  # as ftx writes them: one name
                found = f".{name}".endswith(f".{min(whole)}")
            else:
                found = self._match(rf"(?:.*\.)?(?:{one})", name) is not None
            if found:
                return value
        return default

    def _match(self, expression: str, name: str) -> Mapping[str, str] | None:
        try:
            return self.expressions.fullmatch(expression, name)
        except ExpressionError as error:
            raise AdapterError(
                "a regular expression in the adapter's config cannot be used",
                where=self.path,
                found=str(error),
                fix="correct the regular expression in this file",
            ) from error


def check_adapter_folder(path: Path) -> None:
    """Raise AdapterError if there is no folder."""
    if not path.is_dir():
        what = "an adapter must be a folder, this is a file" if path.exists() else "the adapter does not exist"
        raise AdapterError(what, where=path, fix="give a run, or a folder that peft wrote")


def read_config(folder: Path) -> PeftConfig:
    """Read an adapter's config.

    Raises: AdapterError if it is none, or of a kind that does not merge, or relative to a changed base.
    """
    path = folder / CONFIG
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise AdapterError(
            "the folder must be an adapter",
            where=folder,
            found=f"no {CONFIG}",
            fix="give a folder that peft or ftx wrote",
        ) from None
    except (OSError, JsonError) as error:
        raise AdapterError(
            "the adapter's config cannot be read", where=path, found=str(error), fix=SAVE_ADAPTER_AGAIN
        ) from error
    if not isinstance(document, dict):
        raise AdapterError(
            "the adapter's config must be a JSON object",
            where=path,
            found=type(document).__name__,
            fix=SAVE_ADAPTER_AGAIN,
        )
    name = _method(document, path)  # pyright: ignore[reportUnknownArgumentType]
    method = METHODS[name]
    try:
        read = _DOCUMENTS[method.alpha_key].model_validate(document)
    except ValidationError as error:
        raise AdapterError(
            "the adapter's config is invalid", where=path, found=first_error(error), fix=SAVE_ADAPTER_AGAIN
        ) from error
    if (rank := max([read.r, *(read.rank_pattern or {}).values()])) > method.most_rank:
        raise AdapterError(
            f"the rank r must be at most {method.most_rank}", where=path, found=f"r {rank}", fix=SAVE_ADAPTER_AGAIN
        )
    return PeftConfig(path, name, read)


def _method(config: Mapping[str, object], path: Path) -> AdapterName:
    """The method of an adapter.

    Raises: AdapterError if ftx has none for it, or it changes more than the weights of its layers.
    """
    kind = config.get("peft_type")
    names: list[AdapterName] = [
        name for name, method in METHODS.items() if method.peft_type == kind and method.reads(config)
    ]
    if not names:
        raise AdapterError(
            f"the adapter must be one of {', '.join(facts.title for facts in ADAPTERS.values())}",
            where=path,
            found=f"peft_type {shown(kind)}",
            fix=MERGE_WITH_PEFT,
        )
    if config.get("bias", "none") != "none":
        raise AdapterError("bias must be none", where=path, found=f"bias {shown(config['bias'])}", fix=MERGE_WITH_PEFT)
    METHODS[names[0]].check(config, path)
    return names[0]
