"""Putting adapters into a model, and proof that training reaches each of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ftx.adapters.dora import DoraLinear
from ftx.adapters.lora import LoraLinear
from ftx.adapters.spec import AdapterSpec, Kind, Part
from ftx.backbones.families import Site, adds_in_place, depth, expose, head_names, sites
from ftx.errors import AdapterError

AdapterLayer = LoraLinear | DoraLinear
KINDS: dict[Kind, type[LoraLinear] | type[DoraLinear]] = {"lora": LoraLinear, "dora": DoraLinear}


def match(module: nn.Module, spec: AdapterSpec) -> list[tuple[Site, tuple[Part, ...]]]:
    """The layers that a spec chooses, and the rows and ranks of each target in them.

    Raises: AdapterError if a target is in no layer, or more blocks are asked for than there are.
    """
    found = sites(module)
    if not found:
        raise AdapterError(
            "this architecture has no layers that an adapter of ftx knows",
            found=f"{type(module).__name__}: no linear layer inside attention or MLP",
            mend="linear probing works on every model: --freeze-backbone",
        )
    blocks = depth(module)
    if spec.last_blocks is not None and spec.last_blocks > blocks:
        raise AdapterError(
            "more blocks than the model has",
            where="adapter.blocks",
            found=f"{spec.last_blocks} of {blocks}",
            mend=f"--blocks all, or at most {blocks}",
        )
    first = 0 if spec.last_blocks is None else blocks - spec.last_blocks
    matched = [(site, _parts(site, spec)) for site in found if site.block >= first]
    matched = [(site, parts) for site, parts in matched if parts]
    reached = {part.target for _, parts in matched for part in parts}
    for site, parts in matched:
        widest = min(module.get_submodule(site.name).get_parameter("weight").shape)
        rank = max(spec.rank[part.target] for part in parts)
        if rank > widest:
            raise AdapterError(
                "a rank above the width of its layer",
                where=f"adapter.rank, {site.name}",
                found=f"{rank}, the layer's smaller side is {widest}",
                mend=f"--rank of at most {widest}; 4 to 32 are usual",
            )
    if absent := [target for target in spec.rank if target not in reached]:
        known = sorted({target for site in found for target in site.rows})
        raise AdapterError(f"targets {absent} are in no layer of this model", found=f"it has {known}")
    return matched


def _parts(site: Site, spec: AdapterSpec) -> tuple[Part, ...]:
    parts: list[Part] = []
    start = 0
    for target, rows in site.rows.items():
        if target in spec.rank:
            parts.append(Part(target, rows, slice(start, start + spec.rank[target])))
            start += spec.rank[target]
    return tuple(parts)


def attach(module: nn.Module, spec: AdapterSpec, *, generator: torch.Generator) -> list[str]:
    """Replace the chosen layers by adapted ones, in place, and freeze all but adapters and head.

    The pretrained weights must be in: DoRA takes its magnitudes from them.
    Returns: the names of the adapted layers.
    """
    module.requires_grad_(False)
    expose(module)
    matched = match(module, spec)
    for site, parts in matched:
        base = module.get_submodule(site.name)
        assert isinstance(base, nn.Linear)
        scalings = {spec.scaling(part.target) for part in parts}
        if len(scalings) > 1:
            raise AdapterError(
                "targets of one fused layer need one alpha / rank", where=site.name, found=str(sorted(scalings))
            )
        layer = KINDS[spec.kind](base, parts, scaling=scalings.pop(), dropout=spec.dropout, generator=generator)
        if isinstance(layer, DoraLinear):
            layer.added_to_in_place = adds_in_place(module, site.name)
        module.set_submodule(site.name, layer)
    unfreeze_head(module)
    return [site.name for site, _ in matched]


def unfreeze_head(module: nn.Module) -> None:
    """Let the classifier train."""
    for name in head_names(module):
        module.get_submodule(name).requires_grad_(True)


def adapter_layers(module: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapted layer by its name."""
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear | DoraLinear):
            yield name, layer


def prove_reach(module: nn.Module) -> None:
    """After the first backward: every adapter has a gradient, in the rows of every target.

    A layer that the model bypasses (by using its weight without calling it) would never train, and
    nobody would be told.
    Raises: AdapterError naming the layers that training does not reach.
    """
    dead = [
        f"{name} ({part.target})"
        for name, layer in adapter_layers(module)
        for part in layer.parts
        if layer.lora_B.grad is None or not layer.lora_B.grad[part.rows, part.ranks].norm() > 0
    ]
    if dead:
        raise AdapterError(
            "training does not reach these adapters",
            where=", ".join(dead[:5]) + (f" and {len(dead) - 5} more" if len(dead) > 5 else ""),
            found="no gradient after the first step",
            mend="choose other --targets",
        )
