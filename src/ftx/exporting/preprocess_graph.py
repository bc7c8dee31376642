"""The preprocessing as a graph: raw uint8 images of any size in, the body's normalised input out.

It equals ``ftx.data.preprocess`` within one grey level, as a test checks. Pillow's resize is two matrix products,
rounded to grey levels after each; the crop is a choice of rows in their matrices. Pixels that need no resize bypass
both: the products and their matrices took 5 % of a ViT-S's time in bf16.

OpenVINO has an Interpolate that follows Pillow, but its CPU plugin unrolls the full image into machine code, again for
each size: 4.2 s for the first image of 1200 x 1000, 83 s and 4.9 GB for one of 12 megapixels (2026.4.1). The products
take 0.1 s for the latter.

Shapes: N images of H x W pixels; R and C, the rows and columns of the network's input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from ftx.data.preprocess import Interpolation, Preprocess
from ftx.runtimes.predictor import INPUT
from ftx.runtimes.single_kernels import NORMALISED

# Pillow stores its coefficients as integers of 22 fractional bits (PRECISION_BITS in its Resample.c).
_COEFFICIENT_STEPS = 2.0**22


def embed_preprocessing(model: ov.Model, pre: Preprocess) -> ov.Model:
    """Put resize, centre crop and normalisation before a body, in place.

    The resize changes nothing where the image just covers ``pre.box`` already. Whatever precision the body
    computes in, this part stays in f32.
    Shape: the body takes f32 [N, 3, height, width]; the result takes u8 [N, H, W, 3] (RGB), all of N, H, W free.
    """
    (body_input,) = model.get_parameters()
    front = _in_f32(_preprocessing(pre))
    normalised = front.get_results()[0].input_value(0)
    normalised.get_tensor().set_names(set())  # saving named it, with a counter of this process
    normalised.get_node().set_friendly_name(NORMALISED)
    for consumer in body_input.output(0).get_target_inputs():
        consumer.replace_source_output(normalised)
    model.add_parameters(front.get_parameters())
    model.remove_parameter(body_input)
    model.validate_nodes_and_infer_types()
    return model


def _preprocessing(pre: Preprocess) -> ov.Model:
    """Two parallel ways, of which one gets all images and the other none: nodes without elements do not run.

    An If would be simpler, and 1 % faster; but after it the first images of a size may read memory that nothing wrote
    yet (2026.4.1, if a convolution takes them in another layout).
    """
    image = ops.parameter([-1, -1, -1, 3], ov.Type.u8, name=INPUT)
    image.output(0).set_names({INPUT})
    image.set_layout(ov.Layout("NHWC"))
    shape = ops.shape_of(image)
    images = ops.gather(shape, _ints([0]), _ints(0))
    height, width = (ops.gather(shape, _ints(axis), _ints(0)) for axis in (1, 2))
    box_height, box_width = pre.box
    covers = ops.logical_and(ops.equal(height, _ints(box_height)), ops.equal(width, _ints(box_width)))
    is_resized = ops.select(covers, _ints(0), _ints(1))
    resized = ops.multiply(images, is_resized)
    cropped = ops.subtract(images, resized)
    levels_N3RC = ops.concat(
        [
            _cropped(_first(image, cropped), cropped, pre),
            _resized(_first(image, resized), resized, (height, width), is_resized, pre),
        ],
        0,
    )
    mean_3 = np.asarray(pre.mean, np.float64)[:, None, None]
    std_3 = np.asarray(pre.std, np.float64)[:, None, None]
    normalised = ops.multiply(ops.add(levels_N3RC, _floats(-255 * mean_3)), _floats(1 / (255 * std_3)))
    return ov.Model([ops.result(normalised)], [image], "preprocessing")  # pyright: ignore[reportGeneralTypeIssues]


def _first(image_NHW3: ov.Node, count: ov.Node) -> ov.Node:
    return ops.slice(image_NHW3, _ints([0]), count, _ints([1]), _ints([0]))


def _cropped(image_NHW3: ov.Node, count: ov.Node, pre: Preprocess) -> ov.Node:
    """The centre of images that cover the box and no more. Shape: grey levels, f32 [N, 3, R, C]."""
    if pre.box != (pre.height, pre.width):
        # As in ``_coefficients``: half the rest, rounded half to even.
        top, left = (round((box - kept) / 2) for box, kept in zip(pre.box, (pre.height, pre.width), strict=True))
        ends = _ints([top + pre.height, left + pre.width])
        image_NHW3 = ops.slice(image_NHW3, _ints([top, left]), ends, _ints([1, 1]), _ints([1, 2]))
    # The shape again: no image of another size has one that would fit the images of the other way.
    kept_NRC3 = ops.reshape(image_NHW3, ops.concat([count, _ints([pre.height, pre.width, 3])], 0), special_zero=False)
    return _channels_first(kept_NRC3)


def _resized(
    image_NHW3: ov.Node, count: ov.Node, sides: tuple[ov.Node, ov.Node], is_resized: ov.Node, pre: Preprocess
) -> ov.Node:
    """Images resized to cover the box, and their centre. Shape: grey levels, f32 [N, 3, R, C]."""
    height, width = sides
    box_height, box_width = pre.box
    # The side that becomes as long as the box's, and that length: the short side, if the box is square.
    by_height = ops.less_equal(ops.multiply(height, _ints(box_width)), ops.multiply(width, _ints(box_height)))
    held = ops.select(by_height, height, width)
    length = ops.select(by_height, _ints(box_height), _ints(box_width))
    kernel = _KERNELS[pre.interpolation]

    def coefficients(side: ov.Node, kept: int) -> ov.Node:
        resized = _quotient(ops.multiply(side, length), held, to_nearest=not isinstance(pre.resize, int))
        rows = ops.reshape(ops.multiply(is_resized, _ints(kept)), _ints([1]), special_zero=False)
        return _coefficients(side, resized, kept, rows, kernel)

    pixels_N3HC = _grey_levels(ops.matmul(_channels_first(image_NHW3), coefficients(width, pre.width), False, True))
    pixels_N3RC = _grey_levels(ops.matmul(coefficients(height, pre.height), pixels_N3HC, False, False))
    shape = ops.concat([count, _ints([3, pre.height, pre.width])], 0)
    return ops.reshape(pixels_N3RC, shape, special_zero=False)


def _channels_first(image_NHW3: ov.Node) -> ov.Node:
    """Grey levels, f32 [N, 3, H, W]: OpenVINO transposes floats faster than bytes, by 0.1 ms for 224 x 224."""
    return ops.transpose(_to_f32(image_NHW3), _ints([0, 3, 1, 2]))


def _coefficients(
    side: ov.Node, resized: ov.Node, kept: int, rows: ov.Node, kernel: Callable[[ov.Node], ov.Node]
) -> ov.Node:
    """How much each pixel of a side counts for each pixel of the centre crop of the resized side.

    Shape: f32 [1, 1, rows, side], rows being all that are kept or none; a row sums to 1.
    Source: Pillow, Resample.c, precompute_coeffs: the kernel about the centre of each output pixel,
    widened by the scale where an image shrinks. Here all distances are integers, in units of half a
    pixel divided by ``resized``: they stay exact up to side * resized of 2^31.
    """
    spare = ops.subtract(resized, _ints(kept))
    # spare / 2, rounded half to even, as torchvision's crop does
    start = _halved(ops.add(spare, ops.mod(_halved(spare), _ints(2))))
    every_row = _ints(np.arange(kept)[None, None, :, None])
    row_kept1 = ops.add(ops.slice(every_row, _ints([0]), rows, _ints([1]), _ints([2])), start)
    column_side = ops.reshape(ops.range(_ints(0), side, _ints(1), "i64"), _ints([1, 1, 1, -1]), special_zero=False)
    distance = ops.subtract(ops.multiply(_odd(column_side), resized), ops.multiply(_odd(row_kept1), side))
    reach = ops.multiply(ops.maximum(side, resized), _ints(2))
    weight = kernel(_over(_to_f32(ops.abs(distance)), _to_f32(reach)))
    weight = _over(weight, ops.reduce_sum(weight, _ints([3]), keep_dims=True))
    steps = ops.round(ops.multiply(weight, _floats(_COEFFICIENT_STEPS)), "half_away_from_zero")
    return ops.multiply(steps, _floats(1 / _COEFFICIENT_STEPS))


def _bilinear(x: ov.Node) -> ov.Node:
    return ops.relu(ops.add(ops.multiply(x, _floats(-1)), _floats(1)))


def _bicubic(x: ov.Node) -> ov.Node:
    """Keys' kernel with a = -0.5, as Pillow has it: 1.5x³ - 2.5x² + 1 up to 1, -0.5x³ + 2.5x² - 4x + 2 up to 2."""
    near = _polynomial(x, 1.5, -2.5, 0.0, 1.0)
    far = _polynomial(x, -0.5, 2.5, -4.0, 2.0)
    return ops.select(ops.less(x, _floats(1)), near, ops.select(ops.less(x, _floats(2)), far, _floats(0)))


_KERNELS: dict[Interpolation, Callable[[ov.Node], ov.Node]] = {"bilinear": _bilinear, "bicubic": _bicubic}


def _polynomial(x: ov.Node, first: float, *others: float) -> ov.Node:
    value: ov.Node = _floats(first)
    for coefficient in others:
        value = ops.add(ops.multiply(value, x), _floats(coefficient))
    return value


def _grey_levels(values: ov.Node) -> ov.Node:
    """Rounded half up and limited to 0..255, as Pillow does after each of its two passes."""
    return ops.floor(ops.add(ops.clamp(values, 0.0, 255.0), _floats(0.5)))


def _over(value: ov.Node, divisor: ov.Node) -> ov.Node:
    """``value / divisor``, by a root twice and one step of Newton's method.

    OpenVINO rewrites a division into new nodes, without the mark of f32. The step makes a quotient like 1/2 exact, as
    in Pillow's own coefficients: full columns of sums are then exact halves.
    """
    root = ops.power(divisor, _floats(-0.5))
    inverse = ops.multiply(root, root)
    quotient = ops.multiply(value, inverse)
    rest = ops.add(value, ops.multiply(ops.multiply(divisor, _floats(-1)), quotient))
    return ops.add(quotient, ops.multiply(rest, inverse))


def _in_f32(model: ov.Model) -> ov.Model:
    """The same model, each node marked to keep its precision if the rest computes in bf16 or is stored as float16.

    Unmarked, bf16 weights have errors of up to three grey levels. Python cannot set this mark, but a model's file can.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        tree = ElementTree.parse(path)
        for layer in tree.iter("layer"):
            if layer.get("type") not in ("Parameter", "Result"):
                marks = layer.find("rt_info")
                marks = ElementTree.SubElement(layer, "rt_info") if marks is None else marks
                ElementTree.SubElement(marks, "attribute", name="precise", version="0")
        tree.write(path)
        # Read into memory and not mapped, as the file goes away.
        return ov.Core().read_model(path, config={"ENABLE_MMAP": False})


def _quotient(product: ov.Node, side: ov.Node, *, to_nearest: bool) -> ov.Node:
    """A quotient of integers: its floor, or the nearest, half to even, as ``Preprocess.resized`` has it."""
    whole = ops.divide(product, side)
    if not to_nearest:
        return whole
    rest = ops.subtract(product, ops.multiply(whole, side))
    doubled = ops.add(_doubled(rest), ops.mod(whole, _ints(2)))
    above = ops.divide(ops.subtract(ops.add(doubled, side), _ints(1)), _doubled(side))
    return ops.add(whole, above)


def _doubled(value: ov.Node) -> ov.Node:
    return ops.multiply(value, _ints(2))


def _halved(value: ov.Node) -> ov.Node:
    return ops.divide(value, _ints(2))


def _odd(value: ov.Node) -> ov.Node:
    return ops.add(_doubled(value), _ints(1))


def _to_f32(value: ov.Node) -> ov.Node:
    return ops.convert(value, ov.Type.f32)


def _ints(values: object) -> ov.Node:
    return ops.constant(np.asarray(values, np.int64))


def _floats(values: object) -> ov.Node:
    return ops.constant(np.asarray(values, np.float32))
