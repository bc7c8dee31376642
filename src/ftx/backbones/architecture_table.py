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
    """One architecture of timm.

    ``parameters`` are those without a head, ``input_size`` is that of its default weights: channels, height, width.
    ``layers`` counts the linear layers that serve each target; ``adapted`` counts a fused one once. ``any_size``: it
    takes other image sizes. ``classifier``: it takes a head, so linear probing and full fine-tuning work.
    ``pretrained`` has the licence of each tag's weights, the default first; None if timm does not state it.
    """

    architecture: str
    family: str
    parameters: int
    input_size: tuple[int, int, int]
    any_size: bool
    blocks: int
    adapted: int
    layers: dict[Target, int]
    classifier: bool
    pretrained: dict[str, str | None]


class SupportedModel(Architecture):
    """What ``--model`` takes: an architecture by its own name, or a bundled model."""

    name: str
    embedded: bool = False

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
