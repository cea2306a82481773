"""The pictures of single inputs: tiles of an image, bars of any other vector.

Tiles are the pixels themselves, enlarged without smoothing; colour maps are
perceptually uniform and told apart by colour-blind readers.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxcert.errors import InputError
from jaxcert.report.charts import Picture, Scheme, chart, data_uri, in_both, legend
from jaxcert.report.summary import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_IMAGE_SIDE = 4
_LEAST_FLAT_SIDE = 7
_TILE_PIXELS = 224
_MOST_BARS = 24
MIXED = "input units, which differ between features"
SLACK_MAP = "viridis"
CHANGE_MAP = "PuOr_r"
EDGE_MAP = "magma"


@dataclasses.dataclass(frozen=True)
class Example:
    """One input of the gallery.

    Attributes:
      x: the input.
      box: its lower and upper bounds; None where there is none.
      witness: its counterexample; None where there is none.
      grown: what the box grew to; None where it did not.
      domain_lo, domain_hi: the legal inputs, of the shape of x.
    """

    x: Float[np.ndarray, "*shape"]
    box: tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]] | None
    witness: Float[np.ndarray, "*shape"] | None
    domain_lo: Float[np.ndarray, "*shape"]
    domain_hi: Float[np.ndarray, "*shape"]
    grown: tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]] | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """The scale of one colour bar: a CSS gradient and its two ends."""

    gradient: str
    low: str
    high: str


@dataclasses.dataclass(frozen=True)
class Tile:
    """One picture of an image input: a PNG as a data URI, and its colours' scale."""

    uri: str
    scale: Scale | None


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Returns (height, width, channels) of inputs of this shape; None if not images.

    Images are (h, w), (h, w, 1), (h, w, 3), (1, h, w), (3, h, w), and vectors whose
    length is the square of 7 or more; further axes of length 1 are ignored.
    """
    axes = tuple(n for n in shape if n != 1)
    if len(axes) == 1:
        side = math.isqrt(axes[0])
        if side * side == axes[0] and side >= _LEAST_FLAT_SIDE:
            return side, side, 1
    if len(axes) == 2 and min(axes) >= _LEAST_IMAGE_SIDE:
        return axes[0], axes[1], 1
    if len(axes) == 3:
        for height, width, channels in (axes, (*axes[1:], axes[0])):
            if channels == 3 and min(height, width) >= _LEAST_IMAGE_SIDE:
                return height, width, 3
    return None


def as_image(array: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "h w c"]:
    """Returns the array as (height, width, channels); see `image_shape`."""
    layout = image_shape(array.shape)
    if layout is None:
        raise InputError(f"an array of shape {array.shape} is not an image")
    axes = tuple(n for n in array.shape if n != 1)
    if len(axes) == 3 and axes[2] != 3:
        return np.moveaxis(array.reshape(axes), 0, -1)
    return array.reshape(layout)


def domain_of(
    config: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Returns the domain's bounds of the given shape, [0, 1] where config is silent.

    Args:
      config: its `domain_lower` and `domain_upper` are numbers or one per feature.
      shape: shape of one input.
    """
    bounds = []
    for key, default in (("domain_lower", 0.0), ("domain_upper", 1.0)):
        value = config.get(key)
        array = np.asarray(default if value is None else value, dtype=float)
        if array.size == math.prod(shape):
            array = array.reshape(shape)
        elif array.size != 1:
            raise InputError(
                f"{key} has {array.size} values, inputs have shape {shape}. Give one "
                "number, or one per feature"
            )
        bounds.append(np.broadcast_to(array, shape))
    return bounds[0], bounds[1]


def units(config: Mapping[str, Any], shape: tuple[int, ...]) -> str:
    """Returns the unit of an apothem, for axis labels."""
    if config.get("rates_are"):
        return str(config["rates_are"])
    lo, hi = domain_of(config, shape)
    width = float(np.max(hi - lo, initial=0.0))
    uniform = width > 0 and math.isfinite(width) and one_unit(config, shape)
    if not uniform:
        # Of features whose ranges differ no edge or mean of edges is comparable.
        return MIXED if bool(np.all(np.isfinite(hi - lo))) else "input units"
    what = "pixel range" if image_shape(shape) else "feature range"
    return f"input units, {width:g} = full {what}"


def one_unit(config: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether edges of different features may be compared and averaged."""
    lo, hi = domain_of(config, shape)
    width = hi - lo
    with np.errstate(invalid="ignore"):
        return bool(np.all(width == np.max(width, initial=0.0)))


def on_boundary(
    lo: Float[np.ndarray, "*shape"],
    hi: Float[np.ndarray, "*shape"],
    example: Example,
) -> tuple[Bool[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"]]:
    """Returns which lower and which upper faces lie on the domain's boundary.

    Single-precision bounds are compared with double-precision ones, hence a tolerance;
    it decides nothing but the drawing.
    """
    width = example.domain_hi - example.domain_lo
    allowed = 1e-6 * np.where(np.isfinite(width), width, 1.0)
    return (
        lo <= example.domain_lo + allowed,
        hi >= example.domain_hi - allowed,
    )


def tiles(example: Example) -> dict[str, Tile]:
    """Returns an image input's pictures, by name.

    Names are image, lower, upper, slack-down, slack-up, counterexample, change,
    grown-lower, grown-upper, grown-edges. A tile is left out where there is no box, no
    witness, or no grown box.
    Faces on the domain's boundary, which do not count for the apothem, are hatched.
    """
    import matplotlib

    found: dict[str, Tile] = {}

    def save(name: str, pixels: np.ndarray, scale: Scale | None = None) -> None:
        found[name] = Tile(data_uri(_png(pixels)), scale)

    finite_range = np.isfinite(example.domain_lo) & np.isfinite(example.domain_hi)
    if finite_range.all():
        black, white = example.domain_lo.min(), example.domain_hi.max()
    else:
        black, white = example.x.min(), example.x.max()

    def shade(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
        image = (as_image(array) - black) / max(white - black, 1e-30)
        image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        return _enlarge(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8))

    save("image", shade(example.x))
    if example.box is not None:
        lo, hi = example.box
        save("lower", shade(lo))
        save("upper", shade(hi))
        on_lower, on_upper = on_boundary(lo, hi, example)
        down, up = example.x - lo, hi - example.x
        counted = np.concatenate([down[~on_lower], up[~on_upper]])
        top = float(counted.max(initial=0.0))
        scale = Scale(gradient(SLACK_MAP), "0", format_number(top))
        for name, slack, outside in (
            ("slack-down", down, on_lower),
            ("slack-up", up, on_upper),
        ):
            # The least slack over a pixel's channels, of faces that count.
            least = as_image(np.where(outside, np.inf, slack)).min(axis=2)
            hidden = np.isinf(least)
            level = np.where(hidden, 0.0, least) / max(top, 1e-30)
            colours = matplotlib.colormaps[SLACK_MAP](level, bytes=True)[..., :3]
            save(name, _hatch(_enlarge(colours), _enlarge(hidden)), scale)
    if example.witness is not None:
        save("counterexample", shade(example.witness))
        change = as_image(example.witness - example.x)
        largest = np.abs(change).argmax(axis=2)[..., None]
        signed = np.take_along_axis(change, largest, axis=2)[..., 0]
        top = max(float(np.abs(signed).max()), 1e-30)
        colours = matplotlib.colormaps[CHANGE_MAP](signed / (2 * top) + 0.5, bytes=True)
        text = format_number(top)
        save(
            "change",
            _enlarge(colours[..., :3]),
            Scale(gradient(CHANGE_MAP), "-" + text, "+" + text),
        )
    if example.grown is not None:
        lo, hi = example.grown
        save("grown-lower", shade(lo))
        save("grown-upper", shade(hi))
        # The least edge over a pixel's channels.
        edges = as_image(hi - lo).min(axis=2)
        top = max(float(edges.max()), 1e-30)
        colours = matplotlib.colormaps[EDGE_MAP](edges / top, bytes=True)[..., :3]
        save(
            "grown-edges",
            _enlarge(colours),
            Scale(gradient(EDGE_MAP), "0", format_number(top)),
        )
    return found


def gradient(name: str) -> str:
    """Returns a colour map as a CSS gradient from left to right."""
    import matplotlib
    import matplotlib.colors

    stops = matplotlib.colormaps[name](np.linspace(0, 1, 9))
    colours = ", ".join(matplotlib.colors.to_hex(stop) for stop in stops)
    return f"linear-gradient(to right, {colours})"


def bars(example: Example, feature_names: Sequence[str] | None) -> tuple[Picture, int]:
    """Returns a non-image input as bars, one per feature, and how many are shown.

    Of many features the ones with the least slack are shown (without a box: the ones
    that the counterexample moves most, else the first).
    """
    x = example.x.ravel()
    names = feature_names or [f"feature {i}" for i in range(x.size)]
    dom_lo, dom_hi = example.domain_lo.ravel(), example.domain_hi.ravel()
    width = dom_hi - dom_lo
    scaled = bool(np.isfinite(width).all() and (width > 0).all() and np.ptp(width) > 0)
    # Features of different ranges share an axis only as fractions of their ranges.
    offset, unit = (dom_lo, width) if scaled else (np.zeros_like(x), np.ones_like(x))

    def place(array: np.ndarray) -> np.ndarray:
        return (array.ravel() - offset) / unit

    rank = np.arange(x.size, dtype=float)
    if example.box is not None:
        lo, hi = example.box
        on_lower, on_upper = on_boundary(lo, hi, example)
        down = np.where(on_lower, np.inf, example.x - lo).ravel()
        up = np.where(on_upper, np.inf, hi - example.x).ravel()
        rank = np.minimum(down, up)
    elif example.witness is not None:
        rank = -np.abs(example.witness - example.x).ravel()
    shown = np.sort(np.argsort(rank, kind="stable")[:_MOST_BARS])
    rows = np.arange(len(shown))
    height = 1.3 if example.grown is None else 1.6  # the legend needs a second line

    def draw(scheme: Scheme) -> Figure:
        fig, ax = chart(scheme, 8.0, height + 0.27 * len(shown))
        if np.isfinite(width).all():
            left, right = place(dom_lo)[shown], place(dom_hi)[shown]
            ax.barh(rows, right - left, 0.72, left, color=scheme.faint, label="domain")
        if example.grown is not None:
            left, right = (place(bound)[shown] for bound in example.grown)
            ax.barh(
                rows,
                right - left,
                0.58,
                left,
                color=scheme.grown,
                label="grown box, proved",
            )
        if example.box is not None:
            left, right = (place(bound)[shown] for bound in example.box)
            label = "proved box" if example.grown is None else "cube, proved"
            ax.barh(rows, right - left, 0.3, left, color=scheme.proved, label=label)
        if example.witness is not None:
            ax.plot(
                place(example.witness)[shown],
                rows,
                "X",
                color=scheme.refuted,
                markeredgecolor=scheme.paper,
                markersize=8,
                label="counterexample",
            )
        ax.plot(
            place(example.x)[shown],
            rows,
            "o",
            color=scheme.ink,
            markeredgecolor=scheme.paper,
            markersize=6,
            label="input",
        )
        ax.set_yticks(rows, [_plain(str(names[i]), 24) for i in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xlabel(
            "feature value (fraction of its domain)"
            if scaled
            else "feature value (input units)"
        )
        ax.grid(axis="y", visible=False)
        columns = 4 if example.grown is None else 3
        legend(ax, scheme, loc="lower center", ncols=columns, bbox_to_anchor=(0.5, 1.0))
        return fig

    return in_both(draw), len(shown)


def _plain(text: str, length: int) -> str:
    """Returns short text that matplotlib does not take for mathematics."""
    text = text if len(text) <= length else text[: length - 2] + ".."
    return text.replace("$", r"\$")


def _enlarge(pixels: np.ndarray) -> np.ndarray:
    """Returns every pixel repeated, so that the picture has some 224 pixels a side."""
    factor = max(1, math.ceil(_TILE_PIXELS / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _hatch(
    pixels: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture with grey diagonal stripes where the mask is set."""
    row, column = np.indices(mask.shape)
    stripes = np.where((row + column) % 8 < 2, 150, 222).astype(np.uint8)
    return np.where(mask[..., None], stripes[..., None], pixels)


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, pixels, format="png")
    return stream.getvalue()
