"""The adapter methods of ftx, by the names that recipes have for them."""

from __future__ import annotations

from collections.abc import Mapping

from ftx.adapters.lokr import Lokr
from ftx.adapters.low_rank import LowRank
from ftx.adapters.method import AdapterMethod
from ftx.recipe.method_defaults import AdapterName

METHODS: Mapping[AdapterName, AdapterMethod] = {
    "lora": LowRank(dora=False),
    "dora": LowRank(dora=True),
    "lokr": Lokr(),
}
