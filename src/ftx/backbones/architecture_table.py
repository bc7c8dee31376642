"""What ftx supports of every architecture of timm: a bundled table, so that a look into it loads no timm.

``models/make_architectures.py`` makes it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import InputError, nearest, of_the_same_parts
from ftx.core.shipped_files import BUNDLED, ORIGINS, architecture_table
from ftx.recipe.adapter_targets import TARGETS, Target
from ftx.recipe.method_defaults import ADAPTERS


class Architecture(ClosedModel):
    """What ftx supports of one architecture of timm."""

    architecture: str
    """The name of the architecture in timm."""
    family: str
    """The module of timm that defines it, for example ``vision_transformer``."""
    parameters: int
    """The number of parameters without a head."""
    input_size: tuple[int, int, int]
    """The channels, height and width in pixels that the default weights are made for."""
    any_size: bool
    """Whether other image sizes are possible."""
    blocks: int
    """The number of blocks; 0 if no layer can have an adapter."""
    adapted: int
    """The number of layers that can have an adapter; a fused layer counts once."""
    layers: dict[Target, int]
    """The number of layers for each target of an adapter; a fused layer counts for each of its targets."""
    classifier: bool
    """Whether it can have a classification head, which all methods need."""
    pretrained: dict[str, str | None]
    """The licence of each tag of pretrained weights, the default tag first; null if timm does not state it."""


class SupportedModel(Architecture):
    """A model that you can train: an architecture of timm, or a bundled model."""

    name: str
    """The name for ``--model``."""
    embedded: bool = False
    """Whether its weights are bundled with ftx."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of ``--method`` with an adapter that work on it, and linear probing."""
        if not self.classifier:
            return ()
        return (*(ADAPTERS if self.adapted else ()), "linear", "full")


class ArchitectureTable(ClosedModel):
    """``architectures.json``, with the version of timm that it was made of."""

    timm: str
    architectures: tuple[Architecture, ...]

    @cached_property
    def models(self) -> tuple[SupportedModel, ...]:
        """The embedded models, then timm's own by name."""
        own = [SupportedModel(name=one.architecture, **dict(one)) for one in self.architectures]
        embedded = [
            one.model_copy(update={"name": name, "embedded": True, "pretrained": {"": ORIGINS[name][1]}})
            for name, (architecture, _) in BUNDLED.items()
            for one in own
            if one.architecture == architecture
        ]
        return (*embedded, *own)

    def matching(self, pattern: str | None) -> list[SupportedModel]:
        """The model of exactly this name (a tag may follow), else those whose name or family a pattern is in.

        Raises: InputError naming the nearest if there is none.
        """
        if pattern is None:
            return list(self.models)
        given, pattern = pattern, pattern.lower()
        bare, _, tag = pattern.partition(".")
        for model in self.models:
            if model.name == pattern or (model.name == bare and tag in model.pretrained):
                return [model]
        glob = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
        found = [one for one in self.models if fnmatchcase(one.name, glob) or one.family == pattern]
        if not found:
            names = [one.name for one in self.models]
            alike = of_the_same_parts(bare, names) or nearest(
                bare, [word for one in self.models for word in (one.name, one.family)]
            )
            raise InputError(
                f"no model matches '{given}'",
                found=f"{len(self.models)} known models, of timm {self.timm}",
                fix=f"did you mean {alike}?" if alike else "run `ftx models` to list the families",
            )
        return found


def read_architectures() -> ArchitectureTable:
    """The bundled table.

    Raises: EnvironmentFault if it is missing.
    """
    return ArchitectureTable.model_validate_json(architecture_table().read_bytes())


def missing_targets(model: SupportedModel) -> bool:
    """Whether the model lacks one of the default targets."""
    return set(model.layers) != set(TARGETS)
