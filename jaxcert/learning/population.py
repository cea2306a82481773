"""Training a population: networks of one shape, each with numbers of its own."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset
from jaxcert.learning.models import Architecture, from_params
from jaxcert.learning.train import (
    EpochRecord,
    TrainConfig,
    batches_of,
    network_name,
    prepared,
    radius_after,
    train_epoch,
)
from jaxcert.learning.training_step import Numbers, Recipe, State, initial, update
from jaxcert.network import Network
from jaxcert.runs.array_files import ArrayArchive
from jaxcert.runs.files import write_atomically

Progress = Callable[[tuple[EpochRecord, ...]], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a population.

    Attributes:
      network: the trained network; None if its training diverged.
      history: one record per epoch; `seconds` is the population's, by its size.
    """

    network: Network | None
    history: tuple[EpochRecord, ...]


def train_population(
    architecture: Architecture,
    dataset: Dataset,
    configs: Sequence[TrainConfig],
    progress: Progress | None = None,
    kept: Path | None = None,
) -> tuple[Member, ...]:
    """Returns one trained network per configuration, all trained in one program.

    Every member sees the images, the noise and the first weights that `train` gives to
    its seed, so that both agree but for rounding. A member that diverges stops nobody.

    Args:
      architecture: of all networks.
      dataset: the training split.
      configs: they may differ in the fields of `Numbers` and in the seed.
      progress: called after every epoch with the records of all members.
      kept: file (.npz) to keep the state of the last epoch in; if it is there, training
        goes on from it. It belongs to one population: name it after its settings.

    Raises:
      InputError: configurations that need programs of their own, data that do not fit,
        or a kept file that is not of this population.
    """
    first = configs[0]
    batches = batches_of(architecture, dataset, first.batch_size)
    pairs = [prepared(architecture, config, batches) for config in configs]
    recipe = pairs[0][0]
    if any(other != recipe for other, _ in pairs):
        raise InputError(
            "a population has one method, batch_size, pgd_steps and number of epochs; "
            "train other ones apart"
        )
    numbers = _stack([numbers for _, numbers in pairs])
    keys = [jax.random.split(jax.random.key(config.seed)) for config in configs]
    state = _stack([initial(architecture, weights) for weights, _ in keys])
    orders = jnp.stack([order for _, order in keys])
    data = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    history: list[list[EpochRecord]] = [[] for _ in configs]
    if kept is not None and kept.exists():
        state, history = _restored(kept, state)
    for epoch in range(len(history[0]) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        state = _epoch(recipe, state, numbers, data, _fold(orders, epoch))
        totals = np.asarray(state.totals) / batches
        seconds = (time.perf_counter() - start) / len(configs)
        for row, (_, mine), records in zip(totals, pairs, history, strict=True):
            radius = radius_after(recipe, mine, epoch)
            loss, accuracy, robust = row.tolist()
            record = EpochRecord(epoch, loss, accuracy, robust, radius, seconds)
            records.append(record)
        if kept is not None:
            _keep(kept, state, history)
        if progress is not None:
            progress(tuple(records[-1] for records in history))
    members = []
    for index, (config, records) in enumerate(zip(configs, history, strict=True)):
        name = network_name(architecture, dataset, config)
        params = jax.tree.map(lambda v, i=index: v[i], state.params)
        whole = all(math.isfinite(record.loss) for record in records)
        network = from_params(params, architecture, name) if whole else None
        members.append(Member(network, tuple(records)))
    return tuple(members)


def takes_turns(architecture: Architecture) -> bool:
    """Whether members share a compiled program, but run it one after the other.

    A convolution with kernels of its own for every member is a grouped one, which takes
    XLA on the CPU 2.5 times as long as one by one (BUILD_NOTES.md, 2026-11-21).
    """
    return architecture.kind == "cnn" and jax.default_backend() == "cpu"


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _fold(keys: Array, epoch: Int[Array, ""]) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, epoch)


def _epoch(
    recipe: Recipe,
    state: State,
    numbers: Numbers,
    data: tuple[Float[Array, " n *shape"], Int[Array, " n"]],
    keys: Array,
) -> State:
    """Returns the state of all members after one pass, totals of this pass alone."""
    if takes_turns(recipe.architecture):
        turns = []
        for index in range(len(keys)):
            parts = (state, numbers, keys)
            mine, own, key = jax.tree.map(lambda v, i=index: v[i], parts)
            turns.append(train_epoch(recipe, mine, own, data, key))
        return _stack(turns)
    order_keys, attack_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    orders = _permutations(order_keys, data[1].shape[0])
    state = dataclasses.replace(state, totals=jnp.zeros_like(state.totals))
    for _ in range(recipe.batches):
        state = _step(recipe, state, numbers, data, orders, attack_keys)
    return state


@functools.partial(jax.jit, static_argnums=1)
def _permutations(keys: Array, count: int) -> Int[Array, "members n"]:
    return jax.lax.map(lambda key: jax.random.permutation(key, count), keys)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    recipe: Recipe,
    state: State,
    numbers: Numbers,
    data: tuple[Float[Array, " n *shape"], Int[Array, " n"]],
    orders: Int[Array, "members n"],
    keys: Array,
) -> State:
    one = functools.partial(update, recipe)
    return jax.vmap(one, (0, 0, None, 0, 0))(state, numbers, data, orders, keys)


def _keep(path: Path, state: State, history: list[list[EpochRecord]]) -> None:
    records = [[dataclasses.astuple(record) for record in mine] for mine in history]
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    leaves = {f"leaf{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(state))}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, history=text, **leaves)
    write_atomically(path, buffer.getvalue())


def _restored(path: Path, like: State) -> tuple[State, list[list[EpochRecord]]]:
    """Returns what `_keep` wrote.

    Raises:
      InputError: the file is damaged or of another population.
    """
    leaves, tree = jax.tree.flatten(like)
    with ArrayArchive(path, "Remove it: training begins anew then") as stored:
        text = stored.read("history").tobytes()
        found = [stored.read(f"leaf{i}") for i in range(len(leaves))]
        try:
            history = [[_epoch_record(*r) for r in mine] for mine in json.loads(text)]
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise stored.damaged(error, "history: ") from error
    fits = (
        all(
            a.shape == b.shape and a.dtype == np.asarray(b).dtype
            for a, b in zip(found, leaves, strict=True)
        )
        and len({len(mine) for mine in history}) == 1
    )
    if not fits or len(history) != len(like.step):
        raise InputError(f"{path} is the state of another population: remove it")
    return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in found]), history


def _epoch_record(epoch: Any, *numbers: Any) -> EpochRecord:
    """Returns a stored record; raises TypeError or ValueError if it is none."""
    if type(epoch) is not int or not all(type(n) in (int, float) for n in numbers):
        raise ValueError("an epoch's record holds something else than numbers")
    return EpochRecord(epoch, *map(float, numbers))
