"""An adapter folder in the Hugging Face PEFT format, read with numpy only.

``adapter_config.json`` names the kind of adapter. ``adapter_model.safetensors`` contains its tensors and those of the
modules that were trained and saved whole (the head), so base and folder together are the trained model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from ftx.adapters.merge_weight import AdapterWeights
from ftx.adapters.method_table import METHODS
from ftx.adapters.peft_config import SAVE_ADAPTER_AGAIN, PeftConfig, read_config
from ftx.core.errors import AdapterError
from ftx.core.untrusted_input import read_file, require_file

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_FACTORS = sorted({name for method in METHODS.values() for name in method.factors})
_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+)\.(?P<factor>{'|'.join(_FACTORS)})(?:\.weight)?")
_SAVE_AGAIN = (
    "save the adapter with safe_serialization=True. ftx does not read adapter_model.bin, because it can run code"
)
# The types of safetensors. numpy has no bfloat16, whose 16 bits are the upper half of an f32.
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)
}

StoredArray = NDArray[np.generic]


@dataclass(frozen=True)
class PeftFile:
    """The config and the tensors of an adapter folder, by the names that its own library gives the layers.

    ``keys`` are those of each layer's factors; ``others`` are the keys that are no factor of an adapter.
    """

    path: Path
    config: PeftConfig
    tensors: Mapping[str, StoredArray]
    keys: Mapping[str, Mapping[str, str]]
    others: Sequence[str]

    def expected(self, layer: str, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The tensors, by key and shape, that the adapter of a layer has whose weight has this shape."""
        method, keys = self.config.method, self.keys.get(layer, {})
        try:
            shapes = method.shapes(shape, self.config.rank(layer), self._found(layer))
        except AdapterError as error:
            raise AdapterError(error.what, where=self.path, found=f"{layer}: {error.found}", fix=error.fix) from error
        return {keys.get(name, key_of(layer, method.factors[name])): shape for name, shape in shapes.items()}

    def require(self, expected: Mapping[str, tuple[int, ...]], what: str, fix: str) -> None:
        """Raise AdapterError with the text ``what``, unless the tensors are these and no others, each of its shape."""
        missing = sorted(expected.keys() - self.tensors.keys())
        spare = sorted(self.tensors.keys() - expected.keys())
        both = sorted(expected.keys() & self.tensors.keys())
        shapes = [key for key in both if self.tensors[key].shape != expected[key]]
        differences = {"missing": missing, "spare": spare, "of a wrong shape": shapes}
        if any(differences.values()):
            found = "; ".join(f"{len(keys)} keys {kind} ({keys[0]})" for kind, keys in differences.items() if keys)
            raise AdapterError(what, where=self.path, found=found, fix=fix)

    def weights(self, layer: str) -> AdapterWeights:
        """The adapter of one layer, whose tensors were found to be as expected; of a convolution as [O, I·h·w]."""
        factors = {name: tensor.astype(np.float64) for name, tensor in self.factors(layer).items()}
        return self.config.method.weights(factors, self.scaling(layer), self.config.rank(layer))

    def factors(self, layer: str) -> dict[str, StoredArray]:
        """The tensors of one layer's adapter, by the names of its method."""
        return {name: self.tensors[key] for name, key in self.keys.get(layer, {}).items()}

    def scaling(self, layer: str) -> float:
        """The factor s of one layer, by the rank in its config."""
        return self.config.scaling(layer, self.config.rank(layer))

    def layers(self) -> dict[str, AdapterWeights]:
        """The adapters of all layers, checked against the config, without a network.

        Raises: AdapterError for missing or spare keys, and for shapes that do not fit each other or the rank.
        """
        listed = self.config.listed_layers
        names = [name for name in sorted({*listed, *self.keys}) if name in listed or self.config.targets_layer(name)]
        expected: dict[str, tuple[int, ...]] = {}
        for name in names:
            expected |= self.expected(name, self.weight_shape(name))
        for key in self.others:
            if self.config.saves(key.removeprefix(PREFIX).rpartition(".")[0]):
                expected[key] = self.tensors[key].shape
        self.require(expected, "the tensors of the adapter must fit its config", SAVE_ADAPTER_AGAIN)
        if empty := [name for name in names if 0 in self.weight_shape(name)]:
            raise AdapterError(
                "each layer of the adapter must have weights", where=self.path, found=empty[0], fix=SAVE_ADAPTER_AGAIN
            )
        return {name: self.weights(name) for name in names}

    def weight_shape(self, layer: str) -> tuple[int, ...]:
        """The shape of a layer's weight, as its own adapter has it; zero for a side that it does not determine."""
        return self.config.method.weight_shape(self._found(layer))

    def _found(self, layer: str) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.factors(layer).items()}


def is_factor(name: str) -> bool:
    """Whether a tensor of this name in the model is a factor of an adapter."""
    return _KEY.fullmatch(f"{PREFIX}{name}") is not None


def key_of(layer: str, factor: str) -> str:
    """The name of a layer's factor in the file."""
    return f"{PREFIX}{layer}.{factor}"


def read_peft_file(folder: Path, *, without: Collection[str] = ()) -> PeftFile:
    """Read an adapter folder; ``without`` are modules saved with it that are left out, by their names there.

    Raises: AdapterError for a config of another kind of adapter, a file that is not whole, or values that are not
    finite.
    """
    config = read_config(folder)
    left_out = tuple(f"{PREFIX}{name}." for name in without)
    tensors = {key: one for key, one in _read_tensors(folder / WEIGHTS).items() if not key.startswith(left_out)}
    keys: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in tensors:
        match = _KEY.fullmatch(key)
        if match is None:
            others.append(key)
        else:
            keys.setdefault(match["layer"], {})[match["factor"]] = key
    return PeftFile(folder / WEIGHTS, config, tensors, keys, others)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of an adapter by their names in the model around it, without reading them.

    Raises: AdapterError if it is no whole safetensors file.
    """
    path = folder / WEIGHTS
    with _reading(path):
        require_file(path)
        with safe_open(path, "np") as file:
            return {key.removeprefix(PREFIX): tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise AdapterError(f"the adapter folder must contain {path.name}", where=path.parent, fix=_SAVE_AGAIN) from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            "the tensors of the adapter cannot be read",
            where=path,
            found=str(error),
            fix="copy the file again, or save the adapter again",
        ) from error


def _read_tensors(path: Path) -> dict[str, StoredArray]:
    """Every tensor of a file, each as it is but for bfloat16, which becomes f32."""
    with _reading(path):
        stored = deserialize(read_file(path))
    tensors: dict[str, StoredArray] = {}
    for key, one in stored:
        if one["dtype"] not in _TYPES:
            found = f"{key}: {one['dtype']}"
            raise AdapterError(
                "the tensors of the adapter must be of a known type",
                where=path,
                found=found,
                fix="save the adapter in fp32",
            )
        values = np.frombuffer(one["data"], _TYPES[one["dtype"]])
        if one["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[key] = values.reshape(one["shape"])
    # A head may count its batches.
    if whole := [key for key, tensor in tensors.items() if tensor.dtype.kind != "f" and _KEY.fullmatch(key)]:
        found = f"{whole[0]}: {tensors[whole[0]].dtype}"
        raise AdapterError(
            "the adapter must not consist of whole numbers",
            where=path,
            found=found,
            fix="save the adapter in fp32 or fp16",
        )
    with np.errstate(over="ignore"):
        broken = [key for key, tensor in tensors.items() if not np.isfinite(tensor.astype(np.float32)).all()]
    if broken:
        raise AdapterError(
            "the values of the adapter must be finite",
            where=path,
            found=", ".join(broken[:3]),
            fix="train the adapter again, with a lower learning rate",
        )
    return tensors
