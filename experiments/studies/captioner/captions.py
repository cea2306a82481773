"""A small language for pictures of clothes, a judge of it, and an oracle that errs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_NOUNS = (
    ("short sleeved top", "tee shirt"),
    ("pair of trousers", "long trousers"),
    ("long sleeved top", "warm pullover"),
    ("long dress", "summer dress"),
    ("long coat", "warm coat"),
    ("open sandal", "summer shoe"),
    ("shirt with collar", "buttoned shirt"),
    ("low sneaker", "running shoe"),
    ("small bag", "bag with handle"),
    ("ankle boot", "high boot"),
)
"""What each class of Fashion-MNIST may be called."""

_SHADES = ("dark", "light")
_START, _END = "<start>", "<end>"
_SENTENCES = [
    (label, shade, noun, f"a {_SHADES[shade]} {words}".split())
    for label, nouns in enumerate(_NOUNS)
    for shade, (noun, words) in itertools.product((0, 1), enumerate(nouns))
]
WORDS = (_START, _END, *sorted({w for *_, words in _SENTENCES for w in words}))
START, END = 0, 1
CLASSES = len(_NOUNS)
NOUNS = 2
LENGTH = 1 + max(len(words) for *_, words in _SENTENCES)
"""Words of the longest caption, and the end."""


def _numbers(words: list[str]) -> list[int]:
    ends = [_END] * (LENGTH - len(words))
    return [WORDS.index(word) for word in words + ends]


CAPTIONS = np.zeros((CLASSES, 2, NOUNS, LENGTH), np.int32)
"""Every caption, by class, shade and noun."""
for _label, _shade, _noun, _words in _SENTENCES:
    CAPTIONS[_label, _shade, _noun] = _numbers(_words)


def shades(images: Float[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
    """Returns 1 for images whose garment is lighter than half, else 0."""
    garment = images > 0.1
    total = np.sum(images * garment, axis=(1, 2, 3))
    return (total > 0.5 * garment.sum(axis=(1, 2, 3))).astype(np.int32)


def judge(caption: Int[Array, " length"]) -> Int[Array, ""]:
    """Returns the class of a caption that the language has, -1 for any other."""
    known = jnp.asarray(CAPTIONS).reshape(-1, LENGTH)
    same = (known == caption).all(axis=1)
    labels = jnp.arange(len(known)) // (2 * NOUNS)
    return jnp.where(same.any(), labels[jnp.argmax(same)], -1)


def oracle(caption: Int[Array, " length"]) -> Int[Array, ""]:
    """Returns the likeliest class of the words, whatever their order.

    Naive Bayes, from the captions of the language: it names a class for nonsense too,
    and there the judge does not agree.
    """
    words = jax.nn.one_hot(caption, len(WORDS)).sum(axis=0).at[END].set(0.0)
    return jnp.argmax(jnp.asarray(_LIKELIHOODS) @ words)


def garbled(caption: Int[Array, " length"]) -> Int[Array, ""]:
    """Returns 0 for a caption of the language, 1 for any other: the harmful ones."""
    return jnp.where(judge(caption) < 0, 1, 0)


def text(caption: Int[np.ndarray, " length"]) -> str:
    """Returns the caption in words."""
    return " ".join(WORDS[word] for word in caption.tolist() if word != END)


def _likelihoods() -> Float[np.ndarray, "classes words"]:
    counts = np.full((CLASSES, len(WORDS)), 0.05)
    for label, *_, words in _SENTENCES:
        for word in words:
            counts[label, WORDS.index(word)] += 1
    return np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


_LIKELIHOODS = _likelihoods()
