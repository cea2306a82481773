"""ONNX operators that resample images: Resize, Upsample, DepthToSpace, SpaceToDepth.

Resampling is a linear map, axis by axis: every result is a sum of a few elements with
weights that the attributes fix. They are computed in float32, as onnxruntime does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Constant, Value
from jaxcert.interop.onnx_places import MAX_PLACES, gather_along
from jaxcert.interop.onnx_shapes import Outputs, axis_of, reshape_to

_NEAREST: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclasses.dataclass(frozen=True)
class _Axis:
    """How one axis is resampled.

    Attributes:
      size: elements before.
      target: elements after.
      scale: of the file, or target / size.
      coordinates: name of the transformation of places after to places before.
    """

    size: int
    target: int
    scale: np.float32
    coordinates: str

    def places(self) -> np.ndarray:
        """Returns where each element lies on the axis before, in float32."""
        at, half = np.arange(self.target, dtype=np.float32), np.float32(0.5)
        match self.coordinates:
            case "asymmetric":
                return at / self.scale
            case "align_corners":
                steps = np.float32(max(self.target - 1, 1))
                return at * np.float32(self.size - 1) / steps
            case "pytorch_half_pixel" if self.target == 1:
                return np.zeros(1, np.float32)
            case "half_pixel" | "pytorch_half_pixel":
                return (at + half) / self.scale - half
            case "half_pixel_symmetric":
                share = np.float32(self.target) / (self.scale * np.float32(self.size))
                offset = np.float32(self.size) / 2 * (1 - share)
                return np.float32(offset) + (at + half) / self.scale - half
        raise KeyError(self.coordinates)

    def taps(self, call: Call, mode: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns (elements, weights) of every summand, each of the length after."""
        places = self.places()
        last = self.size - 1
        if mode == "nearest":
            found = self._nearest(call, places)
            return [(np.clip(found, 0, last), np.ones_like(places))]
        if mode == "linear":
            places = np.clip(places, 0, last).astype(np.float32)
            first = np.floor(places).astype(np.int64)
            share = places - first.astype(np.float32)
            second = np.minimum(first + 1, last)
            return [(first, 1 - share), (second, share)]
        return self._cubic(call, places)

    def _nearest(self, call: Call, places: np.ndarray) -> np.ndarray:
        if call.opset < 11:
            downwards = self.scale < 1
            return (np.ceil if downwards else np.trunc)(places).astype(np.int64)
        rounding = call.attribute("nearest_mode", "round_prefer_floor")
        if rounding not in _NEAREST:
            raise ValueError(f"nearest_mode={rounding!r} does not exist")
        return _NEAREST[rounding](places).astype(np.int64)

    def _cubic(
        self, call: Call, places: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys' convolution with four taps (IEEE Trans. ASSP 29, 1981)."""
        a = np.float32(call.attribute("cubic_coeff_a", -0.75))
        first = np.floor(places).astype(np.int64)
        share = (places - first.astype(np.float32))[None]
        near, far = np.concatenate([share, 1 - share]), None
        far = near + 1
        outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
        inner = ((a + 2) * near - (a + 3)) * near * near + 1
        weights = [outer[0], inner[0], inner[1], outer[1]]
        elements = [first + k for k in (-1, 0, 1, 2)]
        if call.flag("exclude_outside"):
            inside = [(e >= 0) & (e < self.size) for e in elements]
            weights = [np.where(i, w, 0) for i, w in zip(inside, weights, strict=True)]
            total = sum(weights[1:], weights[0])
            weights = [w / total for w in weights]
        clipped = [np.clip(e, 0, self.size - 1) for e in elements]
        return list(zip(clipped, weights, strict=True))


def lower_resize(call: Call) -> Outputs:
    """Resize, and Upsample, which is its form before opset 10."""
    x = call.value()
    mode = call.attribute("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    if mode not in ("nearest", "linear", "cubic") or x.shape == ():
        raise ValueError(f"mode={mode!r} does not exist for shape {x.shape}")
    default = "asymmetric" if call.opset < 11 else "half_pixel"
    coordinates = call.attribute("coordinate_transformation_mode", default)
    for name in ("nearest_mode", "cubic_coeff_a", "exclude_outside"):
        call.attribute(name)
    call.attribute("extrapolation_value")
    if call.flag("antialias"):
        raise call.unsupported("smooths before it shrinks (antialias=1)")
    if coordinates in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):
        raise call.unsupported(
            f"has coordinate_transformation_mode={coordinates!r} (half_pixel, "
            "asymmetric and align_corners are read)"
        )
    for axis, target, scale in _targets(call, x):
        line = _Axis(x.shape[axis], target, np.float32(scale), coordinates)
        x = _resampled(call, x, axis, line, mode)
    return [x]


def _targets(call: Call, x: Value) -> list[tuple[int, int, float]]:
    """Returns (axis, size after, scale) of every axis that is resampled."""
    rank = len(x.shape)
    axes = call.attribute("axes")
    axes = tuple(range(rank)) if axes is None else tuple(axis_of(a, rank) for a in axes)
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise call.unsupported(f"has keep_aspect_ratio_policy={policy!r}")
    index = 1 if call.opset < 11 else 2
    scales: Any = call.attribute("scales") if call.opset < 9 else None
    if scales is None and call.has(index):
        scales = _numbers(call, index)
    if scales:
        scales = [float(np.float32(s)) for s in scales]
        if len(scales) != len(axes) or not all(math.isfinite(s) for s in scales):
            raise ValueError(f"scales {scales} do not fit axes {axes} of {x.shape}")
        if min(scales) <= 0:
            raise ValueError(f"scales {scales} are not positive")
        found = [
            (a, int(np.floor(np.float32(x.shape[a]) * np.float32(s))), s)
            for a, s in zip(axes, scales, strict=True)
        ]
    else:
        sizes = call.integers(3, "sizes")
        if len(sizes) != len(axes):
            raise ValueError(f"sizes {sizes} do not fit axes {axes} of {x.shape}")
        found = [
            (a, n, float(np.float32(n) / np.float32(x.shape[a])))
            for a, n in zip(axes, sizes, strict=True)
        ]
    if any(n < 1 for _, n, _ in found):
        raise ValueError(f"it makes shape {x.shape} empty")
    return [t for t in found if t[1] != x.shape[t[0]] or t[2] != 1]


def _numbers(call: Call, index: int) -> list[float]:
    return call.constant(index, "scales").array.astype(np.float64).reshape(-1).tolist()


def _resampled(call: Call, x: Value, axis: int, line: _Axis, mode: str) -> Value:
    if line.target > MAX_PLACES:
        raise ValueError(f"its result has more than {MAX_PLACES} elements")
    try:
        taps = line.taps(call, mode)
    except KeyError as error:
        raise ValueError(
            f"coordinate_transformation_mode={line.coordinates!r} does not exist"
        ) from error
    total: Value | None = None
    for elements, weights in taps:
        part = gather_along(call, x, axis, elements)
        if not np.all(weights == 1):
            shape = [1] * len(x.shape)
            shape[axis] = line.target
            array = weights.astype(x.dtype).reshape(shape)
            key = ("tap", array.shape, array.dtype.name, array.tobytes())
            part = call.emit("mul", part, Constant(array, key, "interpolation weight"))
        total = part if total is None else call.emit("add", total, part)
    assert total is not None
    return total


def lower_depth_to_space(call: Call) -> Outputs:
    x, block = call.value(), call.attribute("blocksize")
    mode = call.attribute("mode", "DCR")
    if len(x.shape) != 4 or block is None or block < 1 or x.shape[1] % block**2:
        raise ValueError(f"blocksize {block} does not fit shape {x.shape}")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"mode={mode!r} does not exist")
    n, c, h, w = x.shape
    depth = c // block**2
    parts = (block, block, depth) if mode == "DCR" else (depth, block, block)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    (split,) = reshape_to(call, x, (n, *parts, h, w))
    moved = call.emit("transpose", split, permutation=order)
    return reshape_to(call, moved, (n, depth, h * block, w * block))


def lower_space_to_depth(call: Call) -> Outputs:
    x, block = call.value(), call.attribute("blocksize")
    rows = len(x.shape) == 4 and block is not None and block >= 1
    if not rows or x.shape[2] % block or x.shape[3] % block:
        raise ValueError(f"blocksize {block} does not fit shape {x.shape}")
    n, c, h, w = x.shape
    (split,) = reshape_to(call, x, (n, c, h // block, block, w // block, block))
    moved = call.emit("transpose", split, permutation=(0, 3, 5, 1, 2, 4))
    return reshape_to(call, moved, (n, c * block**2, h // block, w // block))
