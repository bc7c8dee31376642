"""Time a whole training step (forward, loss, backward, AdamW) of ftx against the peft library, in turn, in one process.

The same timm model, targets, rank, batch and optimizer on both sides; the steps are taken A B C D, A B C D, ..., so
that a machine whose speed drifts drifts for all. ftx is timed as it is and with its blocks compiled
(``train.compile=blocks``), which takes some 30 s before; peft with timm's fused attention and with plain products, and
the faster of the two is quoted.

    python -m tests.benchmarks.step --rounds 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import peft
import torch
from tests.benchmarks.machine_features import features
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import attach
from ftx.backbones.build import build
from ftx.backbones.split_network import attentions_with_backward, full_model, set_attention
from ftx.backbones.trained_blocks import compiled_blocks, joined_attention, trained_blocks
from ftx.core.memory import keep_freed_memory
from ftx.recipe.adapter_targets import TARGETS
from ftx.recipe.method_defaults import AdapterName

RANK = 8
LAYERS = r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"


def backbone(size: int) -> nn.Module:
    return build("dinov2-small", weights="auto", num_classes=10, image_size=size, seed=0).module


def ours(kind: AdapterName, size: int, batch: int) -> nn.Module:
    module = backbone(size)
    spec = AdapterSpec(kind, dict.fromkeys(TARGETS, RANK), dict.fromkeys(TARGETS, 2.0 * RANK))
    attach(module, spec, generator=torch.Generator().manual_seed(0))
    set_attention(attentions_with_backward(module), plain=True)
    return module.train()


def theirs(kind: AdapterName, size: int, batch: int, *, plain_attention: bool) -> nn.Module:
    module = backbone(size)
    if plain_attention:
        set_attention(attentions_with_backward(module), plain=True)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=LAYERS, use_dora=kind == "dora", modules_to_save=["head"]
    )
    return peft.get_peft_model(module, config).train()


def full(size: int, batch: int) -> nn.Module:
    module = backbone(size).requires_grad_(True)
    set_attention(attentions_with_backward(module), plain=True)
    return module.train()


def through_ftx(module: nn.Module, images: Tensor) -> Tensor:
    """The logits, computed as ``ftx train`` does."""
    return full_model(module)(images)


def through_timm(module: nn.Module, images: Tensor) -> Tensor:
    """The logits, computed as timm and peft do."""
    return module(images)


def stepper(
    module: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor], images: Tensor, labels: Tensor, *, bf16: bool
) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    adamw = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> float:
        started = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(module, images)
        cross_entropy(logits.float(), labels).backward()
        adamw.step()
        return time.perf_counter() - started

    return step


def products_alone(module: nn.Module, size: int, batch: int, *, bf16: bool) -> Callable[[], float]:
    """A function that computes the dense products that no adapter can leave out, and nothing else.

    Each adapted layer's y = x·W'ᵀ and dx = dy·W', and the six products of each attention: what is left of a step
    if everything else were free. Of all twelve blocks, as peft computes them; ftx computes most of the last one for the
    class token alone, 6 % fewer products.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    tokens = batch * ((size // 14) ** 2 + 1)
    shapes = [layer.weight.shape for layer in module.modules() if isinstance(layer, nn.Linear)][:-1]  # not the head
    work = [(torch.randn(tokens, i).to(dtype), torch.randn(o, i).to(dtype)) for o, i in shapes]
    grads = [torch.randn(tokens, o).to(dtype) for o, _ in shapes]
    heads, per_image = 6, tokens // batch
    q, k = (torch.randn(batch * heads, per_image, 64).to(dtype) for _ in range(2))
    scores = torch.randn(batch * heads, per_image, per_image).to(dtype)

    def step() -> float:
        started = time.perf_counter()
        for (x, weight), grad in zip(work, grads, strict=True):
            _ = x @ weight.mT
            _ = grad @ weight
        for _ in range(12):
            for _ in range(2):
                _ = q @ k.mT
            for _ in range(2):
                _ = scores @ k
                _ = scores.mT @ k
        return time.perf_counter() - started

    return step


def measure(size: int, batch: int, rounds: int, *, bf16: bool) -> dict[str, list[float]]:
    """Seconds of a step in each round, by name."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    modules = {"full": full(size, batch)}
    for kind in ("lora", "dora"):
        modules[f"ftx {kind}"] = ours(kind, size, batch)
        modules[f"ftx {kind}, compiled"] = ours(kind, size, batch)
        modules[f"peft {kind}, fused attention"] = theirs(kind, size, batch, plain_attention=False)
        modules[f"peft {kind}, plain attention"] = theirs(kind, size, batch, plain_attention=True)
    steps = {
        name: stepper(module, through_ftx if name.startswith("ftx") else through_timm, images, labels, bf16=bf16)
        for name, module in modules.items()
    }
    steps["products alone"] = products_alone(modules["full"], size, batch, bf16=bf16)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with ExitStack() as ways:
        for name, module in modules.items():
            if name.startswith("ftx"):
                as_it_trains = (
                    compiled_blocks(module, batch)
                    if name.endswith("compiled")
                    else joined_attention(trained_blocks(module))
                )
                ways.enter_context(as_it_trains)
        for number in range(rounds + 1):
            for name, step in steps.items():
                taken = step()
                if number:  # the first round warms up, and compiles
                    seconds[name].append(taken)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """Of the rounds, so that a machine whose speed drifts drifts for both."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", action="append", choices=["f32", "bf16"], help="both where none is named")
    parser.add_argument("--to", type=Path, help="also into this file with the endings .json and .md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()  # as `ftx train` does; here for peft and the products as well
    answer: dict[str, object] = {"machine": features(), "size": given.size, "batch": given.batch}
    precisions = given.precision or ["f32", "bf16"]
    for precision in precisions:
        seconds = measure(given.size, given.batch, given.rounds, bf16=precision == "bf16")
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        products = seconds["products alone"]
        for kind in ("lora", "dora"):
            ftx, compiled = seconds[f"ftx {kind}"], seconds[f"ftx {kind}, compiled"]
            best = min((name for name in seconds if name.startswith(f"peft {kind}")), key=lambda name: medians[name])
            medians[f"{kind}: peft's best / ftx"] = median_ratio(seconds[best], ftx)
            medians[f"{kind}: peft's best / products alone"] = median_ratio(seconds[best], products)
            medians[f"{kind}: full / ftx"] = median_ratio(seconds["full"], ftx)
            medians[f"{kind}: ftx / products alone"] = median_ratio(ftx, products)
            medians[f"{kind}: ftx compiled / products alone"] = median_ratio(compiled, products)
            medians[f"{kind}: ftx compiled / ftx"] = median_ratio(compiled, ftx)
        medians["ftx dora / ftx lora"] = median_ratio(seconds["ftx dora"], seconds["ftx lora"])
        medians["ftx dora / ftx lora, compiled"] = median_ratio(
            seconds["ftx dora, compiled"], seconds["ftx lora, compiled"]
        )
        answer[precision] = {name: round(value, 3) for name, value in medians.items()}
    lines = [f"{answer['machine']}: ViT-S/14, {given.size} px, batch {given.batch}, medians, seconds a step", ""]
    lines += ["| | |", "|---|---|"]
    for precision in precisions:
        table = answer[precision]
        assert isinstance(table, dict)
        lines += [f"| {precision}, {name} | {value:.3f} |" for name, value in table.items()]
    print("\n".join(lines))
    if given.to is not None:
        given.to.with_suffix(".json").write_text(json.dumps(answer, indent=2))
        given.to.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
