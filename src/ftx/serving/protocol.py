"""The Open Inference Protocol, version 2: requests in JSON, which binary tensors may follow, and responses.

One input, ``image``: UINT8 [N, H, W, 3] of pixels in RGB, or BYTES [N] of encoded images, which JSON has in base64.
In addition to the model's outputs there are ``scores``, in [0, 1], and the predicted ``labels``, as JSON per image.

Shapes: N images, H x W pixels, C labels.
Source: github.com/open-inference/open-inference-protocol, inference_rest.md; Triton's extensions binary_data and
classification.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftx.core.errors import first_error, nearest
from ftx.data.preprocess import Pixels
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.predictor import INPUT, LOGITS
from ftx.serving.http_error import HttpError
from ftx.tasks.thresholds import Floats

SCORES, LABELS = "scores", "labels"
# The outputs if a request names none: maps and feature vectors are large, and rarely used.
DEFAULT_OUTPUTS = (LOGITS, SCORES, LABELS)
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
# The JSON of a request. Pixels in it take four times their bytes.
MAX_JSON_BYTES = 16 << 20
# Bytes that parsing takes, for each of its bytes: 54 were measured for lists of one number, the worst valid input.
JSON_TIMES = 60
# Objects in it: a valid request has far fewer.
MAX_OBJECTS = 1000
# In one request: each becomes a part of the response, and a small image takes few bytes to send.
MAX_IMAGES = 256
# Numbers in a response, all images and outputs together: 300 MB while they become JSON.
MAX_NUMBERS = 1 << 22
# Of any length: more than the memory has.
MOST = 1 << 48
# Inputs, and outputs: the error of a request names each of them.
MAX_PARTS = 16
# The name of a tensor, or of its datatype. Ours are shorter, and unknown names are compared with them.
TensorName = Annotated[str, Field(max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # the protocol: unknown keys are no error


class InputParameters(_Part):
    """Parameters of an input whose tensor follows the JSON."""

    binary_data_size: int | None = Field(default=None, ge=0, le=MOST, strict=True)


class InferInput(_Part):
    """An input tensor."""

    name: TensorName
    shape: list[Annotated[int, Field(le=MOST, strict=True)]] = Field(max_length=8)
    datatype: TensorName
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Part):
    """Parameters of an output."""

    binary_data: bool | None = None
    classification: int = Field(default=0, ge=0, le=MOST)


class InferOutput(_Part):
    """A requested output."""

    name: TensorName
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Part):
    """Parameters of a request."""

    binary_data_output: bool = False


class InferRequest(_Part):
    """The JSON of a request."""

    id: str | None = Field(default=None, max_length=200)
    parameters: RequestParameters = RequestParameters()
    inputs: list[InferInput] = Field(max_length=MAX_PARTS)
    outputs: list[InferOutput] = Field(default_factory=list[InferOutput], max_length=MAX_PARTS)


@dataclass(frozen=True)
class InferCall:
    """A valid request: its images, encoded or as pixels [H, W, 3], and its outputs.

    The inputs of ``request`` were dropped: lists of numbers take thirty times the bytes of the pixels.
    """

    request: InferRequest
    images: Sequence[bytes | Pixels]
    outputs: Sequence[InferOutput]

    @property
    def pixel_bytes(self) -> int:
        """The size of the images that came as pixels."""
        return sum(one.nbytes for one in self.images if isinstance(one, np.ndarray))


def json_length(body: bytes, header_length: str | None) -> int:
    """How many bytes of a body are JSON: ``header_length`` if tensors follow it, else all.

    Raises: HttpError if this is no length within the body, or too long.
    """
    length = len(body)
    if header_length is not None:
        digits = header_length.isdecimal() and len(header_length) <= len(str(MOST))  # int has its own limit of digits
        if not digits or int(header_length) > length:
            raise HttpError(400, f"Inference-Header-Content-Length must be at most {length}, the bytes of the body")
        length = int(header_length)
    if length > MAX_JSON_BYTES:
        found = f"{length / 1e6:.0f} MB of at most {MAX_JSON_BYTES / 1e6:.0f}"
        raise HttpError(413, f"the JSON of the request is too large ({found}): send tensors in binary")
    return length


def read_request(body: bytes, length: int, predictor: OpenVinoPredictor) -> InferCall:
    """Parse and check a body whose first ``length`` bytes are JSON.

    Raises: HttpError.
    """
    text, binary = body[:length], memoryview(body)[length:]
    # Each object and list takes hundreds of bytes. Among pixels, a list has at least four bytes of text.
    if text.count(b"{") > MAX_OBJECTS or 4 * text.count(b"[") > length + MAX_OBJECTS:
        raise HttpError(400, "the request is invalid: it has more brackets than a tensor of pixels")
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise HttpError(400, f"the request is invalid: {first_error(error)}") from None
    images = _images(request, binary)
    outputs = _checked_outputs(request, predictor, len(images))
    return InferCall(request.model_copy(update={"inputs": []}), images, outputs)


def _images(request: InferRequest, binary: bytes | memoryview) -> Sequence[bytes | Pixels]:
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(f"'{one.name[:60]}'" for one in request.inputs[:5]) or "none"
        raise HttpError(400, f"the request must have one input, '{INPUT}', found {names}")
    tensor = request.inputs[0]
    size_bytes = tensor.parameters.binary_data_size
    if (size_bytes is None) == (tensor.data is None):
        raise HttpError(400, f"the input '{INPUT}' must be either in 'data', or in binary with 'binary_data_size'")
    if (size_bytes or 0) != len(binary):
        raise HttpError(
            400, f"binary_data_size must be {len(binary)}, the bytes after the JSON, found {size_bytes or 0}"
        )
    shape = tuple(tensor.shape)
    if tensor.datatype == "BYTES":
        images = _encoded(tensor, binary)
        if shape not in ((len(images),), (len(images), 1)):
            raise HttpError(
                400, f"the shape of {len(images)} encoded images must be [{len(images)}], found {list(shape)}"
            )
        return images
    if tensor.datatype != "UINT8":
        found = f"found {tensor.datatype[:20]!r}"
        raise HttpError(400, f"the input '{INPUT}' must be UINT8 (pixels) or BYTES (encoded images), {found}")
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise HttpError(400, f"pixels must have the shape [N, height, width, 3] in RGB, found {list(shape)}")
    _check_count(shape[0])
    values = binary if tensor.data is None else _flat(tensor.data, len(shape))
    if len(values) != math.prod(shape):
        raise HttpError(400, f"the shape {list(shape)} must have {math.prod(shape)} numbers, found {len(values)}")
    return list(np.frombuffer(_uint8(values) if isinstance(values, list) else values, np.uint8).reshape(shape))


def _flat(data: list[Any], levels: int) -> list[Any]:
    """The numbers of nested lists in one list; they are at most as deep as the shape has dimensions."""
    for _ in range(levels - 1):
        if not data or not isinstance(data[0], list):
            break
        if not all(isinstance(row, list) and len(row) == len(data[0]) for row in data):
            raise HttpError(400, "the rows of 'data' must be equally long")
        data = list(chain.from_iterable(data))
    return data


def _uint8(numbers: list[Any]) -> bytes:
    # Before numpy: it would make an array as wide as the longest text.
    if set(map(type, numbers)) <= {int}:
        try:
            return bytes(numbers)
        except ValueError:
            pass
    raise HttpError(400, "'data' of UINT8 must be whole numbers from 0 to 255")


def _encoded(tensor: InferInput, binary: bytes | memoryview) -> list[bytes]:
    if tensor.data is None:
        return _elements(binary)
    _check_count(len(tensor.data))
    texts = [text for row in tensor.data for text in (row if isinstance(row, list) else [row])]
    _check_count(len(texts))
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (TypeError, ValueError, binascii.Error):
        raise HttpError(400, "'data' of BYTES must be encoded images in base64") from None


def _elements(binary: bytes | memoryview) -> list[bytes]:
    """Elements of a binary tensor: each follows its length in four bytes, little-endian."""
    found: list[bytes] = []
    at = 0
    while at < len(binary) and len(found) <= MAX_IMAGES:
        length = int.from_bytes(binary[at : at + 4], "little")
        if at + 4 + length > len(binary):
            raise HttpError(400, f"an element of {length} bytes goes beyond the tensor's {len(binary)}")
        found.append(bytes(binary[at + 4 : at + 4 + length]))
        at += 4 + length
    _check_count(len(found))
    return found


def _check_count(images: int) -> None:
    if not 1 <= images <= MAX_IMAGES:
        raise HttpError(400, f"a request must have 1 to {MAX_IMAGES} images, found {images}")


def _checked_outputs(request: InferRequest, predictor: OpenVinoPredictor, images: int) -> Sequence[InferOutput]:
    """The outputs of a request, or the default ones.

    Raises: HttpError for an output that the model does not have, and for more numbers than a response may have.
    """
    known = known_outputs(predictor)
    for one in request.outputs:
        if one.name not in known:
            alike = nearest(one.name, known)
            fix = f"did you mean '{alike}'?" if alike else f"choose from {', '.join(known)}"
            raise HttpError(400, f"the model has no output '{one.name[:60]}': {fix}")
        if one.parameters.classification and one.name not in (LOGITS, SCORES):
            raise HttpError(400, f"classification must be of {LOGITS} or {SCORES}, found {one.name}")
    outputs = request.outputs or [InferOutput(name=name) for name in DEFAULT_OUTPUTS]
    numbers = images * sum(abs(math.prod(known[one.name][1])) for one in outputs)
    if numbers > MAX_NUMBERS:
        found = f"{numbers / 1e6:.1f} million numbers of at most {MAX_NUMBERS / 1e6:.1f}"
        raise HttpError(400, f"the response would be too large ({found}): send fewer images, or name fewer outputs")
    return outputs


def known_outputs(predictor: OpenVinoPredictor) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Each output's datatype and shape, N as -1."""
    labels = len(predictor.task.labels)
    own = {name: ("FP32", shape) for name, shape in predictor.outputs.items()}
    return {**own, SCORES: ("FP32", (-1, labels)), LABELS: ("BYTES", (-1,))}


def write_response(
    call: InferCall, stacked: Mapping[str, Floats], predictor: OpenVinoPredictor, name: str, number: int
) -> tuple[bytes, int | None]:
    """The body of a response, and the length of its JSON if tensors follow it. ``stacked`` outputs are [N, ...].

    Raises: HttpError if a number is not finite.
    """
    request, written, blobs = call.request, list[dict[str, object]](), list[bytes]()
    for output in call.outputs:
        tensor = _tensor(output, stacked, predictor)
        texts = tensor.dtype.kind == "O"
        entry: dict[str, object] = {"name": output.name, "shape": list(tensor.shape)}
        entry["datatype"] = "BYTES" if texts else "FP32"
        binary = output.parameters.binary_data
        if request.parameters.binary_data_output if binary is None else binary:
            blob = b"".join(map(_element, tensor.ravel())) if texts else tensor.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            if not texts and not np.isfinite(tensor).all():  # JSON cannot represent it
                raise HttpError(500, "the model's output contains NaN or infinity")
            entry["data"] = tensor.ravel().tolist()
        written.append(entry)
    response = {"model_name": name, "model_version": str(number), "outputs": written}
    if request.id is not None:
        response["id"] = request.id
    text = json.dumps(response, separators=(",", ":")).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _element(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded


def _tensor(output: InferOutput, stacked: Mapping[str, Floats], predictor: OpenVinoPredictor) -> np.ndarray[Any, Any]:
    """One output for all images; text as objects."""
    task = predictor.task
    if output.name == LABELS:
        scores_NC = task.scores(stacked[LOGITS])
        labels = [json.dumps([asdict(one) for one in task.decode(scores_C)]) for scores_C in scores_NC]
        return np.array(labels, dtype=object)
    values = task.scores(stacked[LOGITS]) if output.name == SCORES else stacked[output.name]
    if not output.parameters.classification:
        return values
    best_Nk = np.argsort(-values, axis=1, kind="stable")[:, : output.parameters.classification]
    names = task.labels.names
    rows = [[f"{row[at]:.6f}:{at}:{names[at]}" for at in best] for row, best in zip(values, best_Nk, strict=True)]
    return np.array(rows, dtype=object)
