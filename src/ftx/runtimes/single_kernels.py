"""A network in 8 bits compiled for one image, behind an image path that takes any number of any size.

With shapes that are known OpenVINO prepares nothing anew for each request, and linear layers can be computed as
convolutions. Between the two parts lie images as the network takes them.

Shapes: N images of H x W pixels; R and C, the rows and columns of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftx.core.third_parties import no_telemetry
from ftx.data.preprocess import Preprocess
from ftx.runs.instruction_sets import InstructionSet
from ftx.runtimes.linear_as_convolution import has_int8_linear_layers, most_tokens, with_convolutions

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

# What an exported model calls its normalised images, f32 [N, 3, R, C].
NORMALISED = "normalised_images"
# Fewer tokens gain little: of DINOv2-small with AVX512-BF16 one image took with 257 tokens 0.86, with 197 tokens 0.84,
# with 145 tokens 0.97, with 65 tokens 0.94 of the time of the whole; and several images one by one lose much.
ENOUGH_TOKENS = 192
# With this set alone convolutions take half the time of linear layers, whatever the tokens, and for many images too.
ALWAYS: InstructionSet = "avx2"


@dataclass(frozen=True)
class Parts:
    """An image path, u8 [N, H, W, 3] to f32 [N, 3, R, C], and a body for one image, f32 [1, 3, R, C]."""

    image_path: ov.Model
    body: ov.Model


def single_parts(model: ov.Model, preprocess: Preprocess, isa: InstructionSet | None) -> Parts | None:
    """Part an exported model so, where that makes it faster. None for others."""
    if not _known_to_gain(isa) or _named(model, NORMALISED) is None or not has_int8_linear_layers(model):
        return None
    body = single_body(_behind(model), (1, 3, preprocess.height, preprocess.width), isa)
    return None if body is None else Parts(_before(model), body)


def image_path(model: ov.Model) -> ov.Model | None:
    """What an exported model does before its body; None of one whose parts have no names, as an earlier ftx wrote it.

    Shape: u8 [N, H, W, 3] to f32 [N, 3, R, C].
    """
    return None if _named(model, NORMALISED) is None else _before(model)


def single_body(body: ov.Model, shape: tuple[int, ...], isa: InstructionSet | None) -> ov.Model | None:
    """A body of known shapes, its linear layers in 8 bits as convolutions; None where it is better left as it is.

    That is where it has no such layers, or few tokens, which gain little.
    Shape: ``shape`` is that of the one image, [1, 3, R, C].
    """
    if not _known_to_gain(isa) or not has_int8_linear_layers(body):
        return None
    changed = body.clone()
    changed.reshape(list(shape))
    least = 1 if isa == ALWAYS else ENOUGH_TOKENS
    return with_convolutions(changed)[0] if most_tokens(changed) >= least else None


def _known_to_gain(isa: InstructionSet | None) -> bool:
    """On CPUs with AMX or of no set that is known here linear layers have other kernels: nobody measured them there."""
    return isa not in (None, "amx")


def _before(model: ov.Model) -> ov.Model:
    changed = model.clone()
    normalised = _named(changed, NORMALISED)
    assert normalised is not None
    path = [ops.result(normalised.output(0))]
    return ov.Model(path, changed.get_parameters(), "image_path")  # pyright: ignore[reportGeneralTypeIssues]


def _behind(model: ov.Model) -> ov.Model:
    changed = model.clone()
    normalised = _named(changed, NORMALISED)
    assert normalised is not None
    (image,) = changed.get_parameters()
    images = ops.parameter([-1, 3, -1, -1], ov.Type.f32, name=NORMALISED)
    for port in normalised.output(0).get_target_inputs():
        port.replace_source_output(images.output(0))
    changed.add_parameters([images])
    changed.remove_parameter(image)
    changed.validate_nodes_and_infer_types()
    return changed


def _named(model: ov.Model, name: str) -> ov.Node | None:
    return next((node for node in model.get_ordered_ops() if node.get_friendly_name() == name), None)
