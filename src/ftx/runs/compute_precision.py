"""The precision that a model computes in, whatever its weights are stored in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

Dtype = Literal["f32", "bf16", "f16"]
# f32: pinned, for comparisons. auto: whatever the runtime chooses on this machine, as it is deployed.
Compute = Literal["f32", "auto"]


def precision_title(name: str) -> str:
    """A precision as people read it: fp32 for the f32 of files, fp16 for f16; others as they are."""
    return {"f32": "fp32", "f16": "fp16"}.get(name, name)


@dataclass(frozen=True)
class ComputePrecision:
    """A dtype, and whether the runtime chose it by itself, as where the model is deployed; else it was pinned."""

    dtype: Dtype
    chosen_by_runtime: bool = False

    @property
    def title(self) -> str:
        """As people read it: fp32, bf16 or fp16."""
        return precision_title(self.dtype)

    def __str__(self) -> str:
        """As files contain it."""
        return f"auto:{self.dtype}" if self.chosen_by_runtime else self.dtype


F32 = ComputePrecision("f32")
_BY_TEXT = {
    str(one): one for dtype in get_args(Dtype) for one in (ComputePrecision(dtype), ComputePrecision(dtype, True))
}


def read_compute(text: object) -> ComputePrecision:
    """As reports hold it: ``f32``, or ``auto:bf16`` where the runtime chose bf16.

    Raises: ValueError for any other text.
    """
    if isinstance(text, ComputePrecision):
        return text
    if not isinstance(text, str) or text not in _BY_TEXT:
        raise ValueError(f"must be one of {', '.join(_BY_TEXT)}")
    return _BY_TEXT[text]


# The same as a field of a report: typed here, and the text in JSON.
ComputeField = Annotated[
    ComputePrecision,
    PlainValidator(read_compute),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]
