"""Putting adapters into a model, and proof that training reaches each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ftx.adapters.adapter_layer import AdapterLayer, layer_scaling
from ftx.adapters.adapter_spec import AdapterSpec, TargetPart
from ftx.adapters.low_rank import LowRank
from ftx.adapters.low_rank_layer import LowRankLayer
from ftx.adapters.method_table import METHODS
from ftx.adapters.pissa import PissaLayer, spec_on_file
from ftx.backbones.layer_roles import Site, adds_in_place, depth, expose, head_names, named_sites, sites
from ftx.core.errors import AdapterError
from ftx.recipe.adapter_targets import TARGETS, Blocks
from ftx.recipe.method_defaults import ADAPTERS


def match(module: nn.Module, spec: AdapterSpec) -> list[tuple[Site, tuple[TargetPart, ...]]]:
    """The layers that a spec chooses, and the rows and ranks of each target in them.

    Raises: AdapterError if a target is in no layer, a block is not there, or a layer that is named cannot be adapted.
    """
    if spec.layers is not None:
        found = chosen = named_sites(module, spec.layers)
    else:
        found = sites(module)
        if not found:
            raise AdapterError(
                "model.name must be a model with linear layers in attention or MLP",
                found=type(module).__name__,
                fix="select linear layers with --layers REGEX, or train only the head with --method linear",
            )
        blocks = _chosen_blocks(spec.blocks, depth(module))
        chosen = [site for site in found if site.block in blocks]
    matched = [(site, parts) for site in chosen if (parts := _parts(site, spec))]
    reached = {part.target for _, parts in matched for part in parts}
    absent = [target for target in spec.rank if target not in reached]
    # All six are all that there are: mixers have no attention, and nextvit no MLP of linear layers.
    if absent and not (reached and set[str](spec.rank) == set[str](TARGETS)):
        known = [target for target in TARGETS if any(target in site.rows for site in chosen)]
        among = "this model" if spec.blocks == "all" else "these blocks"
        raise AdapterError(
            f"adapter.targets {', '.join(absent)} must be in a layer of {among}",
            where="adapter.targets",
            found=f"there are {', '.join(known)}",
            fix=f"run again with --targets {','.join(known)}",
        )
    return matched


def _chosen_blocks(blocks: Blocks, count: int) -> range | tuple[int, ...]:
    """The numbers of the blocks of a model that has ``count``."""
    if blocks == "all":
        return range(count)
    listed = isinstance(blocks, tuple)
    if isinstance(blocks, tuple):
        needed, chosen = max(blocks) + 1, blocks
    elif isinstance(blocks, int):
        needed, chosen = blocks, range(max(count - blocks, 0), count)
    else:
        needed = int(blocks.removeprefix("first:"))
        chosen = range(needed)
    if needed > count:
        raise AdapterError(
            f"adapter.blocks must be within the {count} blocks of the model",
            where="adapter.blocks",
            found=f"block {max(chosen)}, the last is {count - 1}" if listed else f"{needed} of {count}",
            fix=f"use --blocks all, or {'numbers up to ' + str(count - 1) if listed else f'at most {count}'}",
        )
    return chosen


def _parts(site: Site, spec: AdapterSpec) -> tuple[TargetPart, ...]:
    parts: list[TargetPart] = []
    start = 0
    for target, rows in site.rows.items():
        if target in spec.rank:
            parts.append(TargetPart(target, rows, slice(start, start + spec.rank[target])))
            start += spec.rank[target]
    return tuple(parts)


def attach(module: nn.Module, spec: AdapterSpec, *, generator: torch.Generator) -> list[str]:
    """Replace the chosen layers by adapted ones, in place, and freeze all but adapters and head.

    The pretrained weights must be in: DoRA takes its magnitudes from them, PiSSA its first factors.
    Returns: the names of the adapted layers.
    Raises: AdapterError as ``match`` does, and for a rank above the width of its layer.
    """
    matched = match(module, spec)
    _check_parts(module, spec, matched)
    return _put_in(module, spec, matched, generator)


def attach_saved(module: nn.Module, spec: AdapterSpec) -> list[str]:
    """Put in the plain adapters that ``trained/`` holds for a spec, to be filled from there."""
    saved = spec_on_file(spec)
    return _put_in(module, saved, match(module, saved), torch.Generator())


def _put_in(
    module: nn.Module,
    spec: AdapterSpec,
    matched: Sequence[tuple[Site, tuple[TargetPart, ...]]],
    generator: torch.Generator,
) -> list[str]:
    module.requires_grad_(False)
    expose(module)
    for site, parts in matched:
        base = module.get_submodule(site.name)
        assert isinstance(base, nn.Linear)
        layer = _adapted(base, parts, spec, generator)
        layer.added_to_in_place = adds_in_place(module, site.name)
        module.set_submodule(site.name, layer)
    unfreeze_head(module)
    return [site.name for site, _ in matched]


def _adapted(
    base: nn.Linear, parts: tuple[TargetPart, ...], spec: AdapterSpec, generator: torch.Generator
) -> AdapterLayer:
    """A layer with a fresh adapter, in the place of its base."""
    method, scaling = METHODS[spec.kind], layer_scaling(parts, [spec.scaling(part.target) for part in parts])
    if not isinstance(method, LowRank):
        rank = spec.rank[parts[0].target]
        return AdapterLayer(base, parts, method=method, rank=rank, scaling=scaling, generator=generator)
    kind = PissaLayer if spec.init == "pissa" else LowRankLayer  # which have a forward and a backward of their own
    return kind(base, parts, dora=method.dora, scaling=scaling, dropout=spec.dropout, generator=generator)


def _check_parts(module: nn.Module, spec: AdapterSpec, matched: Sequence[tuple[Site, tuple[TargetPart, ...]]]) -> None:
    """Raise AdapterError for a rank above a layer's width, or a part of a layer that the method adapts as a whole."""
    for site, parts in matched:
        weight_OI = module.get_parameter(f"{site.name}.weight")
        alike = {(spec.rank[part.target], spec.alpha[part.target]) for part in parts}
        if METHODS[spec.kind].whole_layers and (len(parts) < len(site.rows) or len(alike) > 1):
            raise AdapterError(
                f"adapter.targets must include all or none of a layer with {ADAPTERS[spec.kind].title}",
                where=f"adapter.targets, {site.name}",
                found=", ".join(f"{part.target}: rank {spec.rank[part.target]}" for part in parts)
                + f", of {', '.join(site.rows)}",
                fix="run again with all or none of these --targets, and one rank and alpha",
            )
        for part in parts:
            rank, widest = part.ranks.stop - part.ranks.start, min(weight_OI[part.rows].shape)
            if rank > widest:
                raise AdapterError(
                    f"--rank must be at most {widest} for this layer (recipe key adapter.rank)",
                    where=f"adapter.rank, {site.name}",
                    found=f"{rank}, the layer's smaller side is {widest}",
                    fix=f"run again with a --rank of at most {widest} (4 to 32 are usual)",
                )


def unfreeze_head(module: nn.Module) -> None:
    """Let the classifier train."""
    for name in head_names(module):
        module.get_submodule(name).requires_grad_(True)


def adapter_layers(module: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapted layer by its name."""
    for name, layer in module.named_modules():
        if isinstance(layer, AdapterLayer):
            yield name, layer


def prove_reach(module: nn.Module) -> None:
    """After the first backward: every adapter has a gradient, in the rows of every target.

    A layer that the model bypasses (by using its weight without calling it) would never train, without any error.
    Raises: AdapterError naming the layers that training does not reach.
    """
    untrained = {name: layer.untrained_targets() for name, layer in adapter_layers(module)}
    uncalled = [name for name, targets in untrained.items() if targets is None]
    dead = uncalled or [f"{name} ({target})" for name, targets in untrained.items() for target in targets or ()]
    if dead:
        raise AdapterError(
            "training must reach all adapters",
            where=", ".join(dead[:5]) + (f" and {len(dead) - 5} more" if len(dead) > 5 else ""),
            found="the model never calls the layer: it uses only its weight, or bypasses it"
            if uncalled
            else "no gradient after the first step: the logits do not depend on the layer's output",
            fix="run again with other --targets or other --layers",
        )
