"""The training methods: those that train an adapter, and two others, each with its title and learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AdapterName = Literal["lora", "dora", "lokr"]
Method = Literal[AdapterName, "linear", "full"]


@dataclass(frozen=True)
class MethodFacts:
    """The title of a method in reports, and its peak learning rate: docs/decisions/0004-learning-rate-auto.md.

    ``unused`` are the recipe's keys that it has no meaning for.
    """

    title: str
    lr: float
    unused: tuple[str, ...] = ()


ADAPTERS: Mapping[AdapterName, MethodFacts] = {
    "dora": MethodFacts("DoRA", 1e-3),  # the default comes first
    "lora": MethodFacts("LoRA", 1e-3),
    "lokr": MethodFacts("LoKr", 5e-3, ("adapter.rslora", "adapter.dropout", "adapter.init", "train.lora_plus")),
}
METHODS: Mapping[Method, MethodFacts] = {
    **ADAPTERS,
    "linear": MethodFacts("linear probing", 5e-3),
    "full": MethodFacts("full fine-tuning", 2e-5),
}
