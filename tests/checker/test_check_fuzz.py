"""No bound that the checker accepts is above the true minimum, whatever the file says.

Random networks, boxes, trees of halves and signs, lemmas and multipliers: what they
claim is put above or below the exact minimum of the clause, which a MILP gives.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from answer_builder import Answer, answer, trees, without_property
from builder import Layers, logits, random_layers
from exact import exact_min_margin

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status

# Of the exact minimum, by the tolerances of the solver.
ERROR = 1e-5


def random_tree(random, n: int, neurons: int, lemmas) -> tuple[list[int], int]:
    """Returns nodes in preorder, and how many leaves need multipliers."""
    nodes, leaves = [], 0
    todo = [(np.zeros(neurons, np.int8), 0)]
    while todo:
        signs, depth = todo.pop()
        known = [i for i, s in enumerate(lemmas) if np.all((s == 0) | (s == signs))]
        if known and random.uniform() < 0.8:
            nodes.append(-2 - int(random.choice(known)))
        elif depth == 6 or random.uniform() < 0.15 * depth:
            nodes.append(-1)
            leaves += 1
        elif random.uniform() < 0.5 and (signs == 0).any():
            k = int(random.choice(np.flatnonzero(signs == 0)))
            plus, minus = signs.copy(), signs.copy()
            plus[k], minus[k] = 1, -1
            nodes.append(n + k)
            todo += [(minus, depth + 1), (plus, depth + 1)]
        else:
            nodes.append(int(random.integers(n)))
            todo += 2 * [(signs, depth + 1)]
    return nodes, leaves


def signs_of_leaves(nodes, n: int, neurons: int) -> np.ndarray:
    """Returns the signs of the leaves of a tree, in order."""
    todo, found = [np.zeros(neurons, np.int8)], [np.zeros((0, neurons), np.int8)]
    for node in nodes:
        signs = todo.pop()
        if node == -1:
            found.append(signs[None])
        elif 0 <= node < n:
            todo += [signs, signs]
        elif node >= n:
            plus, minus = signs.copy(), signs.copy()
            plus[node - n], minus[node - n] = 1, -1
            todo += [minus, plus]
    return np.concatenate(found)


def random_claim(
    random, layers: Layers, box, clause, t: float, ops: tuple[str, ...] = ("relu",)
) -> Answer:
    """Returns a random proof that max_r (C y + d)_r > t all over the box."""
    (c, d), n = clause, len(box[0])
    kinds = [ops[k % len(ops)] for k in range(len(layers) - 1)]
    sizes = [
        len(b) for (_, b), op in zip(layers[:-1], kinds, strict=True) if op == "relu"
    ]
    neurons = sum(sizes)
    lemmas = [
        (random.integers(-1, 2, neurons) * (random.uniform(size=neurons) < 0.2)).astype(
            np.int8
        )
        for _ in range(random.integers(3))
    ]
    free = random.uniform() < 0.3
    nodes, count = random_tree(random, n, neurons, [] if free else lemmas)
    lemmas = [] if free else lemmas
    signs = np.concatenate(
        [np.zeros((0, neurons), np.int8), *(s[None] for s in lemmas)]
    )
    signs = np.concatenate([signs, signs_of_leaves(nodes, n, neurons)])
    rows = 0 if free else len(lemmas) + count
    # Multipliers of all sizes: none, small, and absurd.
    scale = random.choice([0, 0.05, 0.3, 30.0])
    betas = scale * random.exponential(size=(rows, neurons)) * abs(signs[:rows])
    lines = random.choice([0.0, 1.0, -1.0])
    slopes = random.uniform(size=(rows, neurons)) if lines < 0 else lines
    weights = random.exponential(size=(rows, len(d)))
    weights *= random.uniform(size=weights.shape) < 0.7
    first = np.cumsum([0, *sizes])
    arrays = trees([(0, -1 if free else 0, nodes)]) | {
        "lemma_clause": np.zeros(len(lemmas), np.int32),
        "lemma_signs": signs[: len(lemmas)],
        "leaf_weights": weights.astype(np.float32),
        "leaf_slopes": (slopes + np.zeros((rows, neurons))).astype(np.float32),
        "leaf_betas": betas.astype(np.float32),
    }
    for k in range(1, len(sizes)):
        if random.uniform() < 0.5:
            shape = 2, sizes[k], int(first[k])
            arrays[f"range_slopes_0_{k}"] = random.integers(0, 129, shape, np.uint8)
    for k, size in enumerate(sizes):
        if size > 1 and random.uniform() < 0.2:
            arrays |= random_cuts(random, k, size, int(first[k]), rows)
    widths = [n, *sizes]
    for k in range(1, len(sizes)):
        arrays |= random_ranges(random, k, widths, likely=0.4)
    made = answer(layers, [box], [(0, c, d - t)], arrays, ops=ops)
    if any(name.startswith("range_ends") for name in arrays):
        made = without_property(made)
        return made.changed(lambda s: s.head.update(version=11))
    return without_property(made) if random.uniform() < 0.7 else made


def random_ranges(random, k: int, widths, likely: float) -> dict[str, np.ndarray]:
    """Returns trees of a few ends of ReLU k, or none; widths of inputs and ReLUs."""
    if random.uniform() > likely:
        return {}
    n, size, before = widths[0], widths[k + 1], sum(widths[1 : k + 1])
    ends = random.integers(0, 2 * size, random.integers(1, 4))
    signs, nodes = [], []
    for _ in ends:
        tree, todo = [], [np.zeros(before, np.int8)]
        while todo:
            mine = todo.pop()
            free = np.flatnonzero(mine == 0)
            if len(free) == 0 or random.uniform() < 0.3:
                tree.append(-1)
                signs.append(mine)
                continue
            tree.append(n + int(random.choice(free)))
            for sign in (-1, 1):
                child = mine.copy()
                child[tree[-1] - n] = sign
                todo.append(child)
        nodes.append(tree)
    columns = random.permutation(before)[: random.integers(before + 1)]
    scale = random.choice([0, 0.05, 0.3, 30.0])
    count = sum(np.count_nonzero(mine) for mine in signs)
    arrays = {
        "ends": ends.astype(np.int32),
        "sizes": np.array([len(tree) for tree in nodes], np.int32),
        "nodes": np.concatenate(nodes).astype(np.int32),
        "columns": columns.astype(np.int32),
        "lines": random.integers(0, 129, (len(signs), len(columns)), np.uint8),
        "betas": (scale * random.exponential(size=count)).astype(np.float32),
    }
    return {f"range_{name}_0_{k}": array for name, array in arrays.items()}


def random_cuts(random, k: int, size: int, before: int, rows: int):
    """Returns two inequalities on two neurons of ReLU k, and multipliers of them."""
    used = random.uniform(size=(rows, 1, 2)) < 0.5
    scale = random.choice([0.02, 0.3])
    return {
        f"cut_neurons_0_{k}": random.permutation(size)[None, :2].astype(np.int32),
        f"cut_inputs_0_{k}": random.normal(size=(1, 2, 2)),
        f"cut_outputs_0_{k}": random.normal(size=(1, 2, 2)),
        f"cut_scales_0_{k}": random.uniform(0.5, 2, (1, 2)),
        f"cut_slopes_0_{k}": random.integers(0, 129, (1, 4, before), np.uint8),
        f"leaf_cuts_0_{k}": (scale * used).astype(np.float32),
    }


SMOOTH = [("tanh",), ("logistic", "relu"), ("relu", "softplus"), ("exp", "tanh")]


def sampled_minimum(random, layers: Layers, ops, lo, hi, c, d) -> float:
    """Returns the least value of c y + d that is found: the minimum, or a bit more."""
    x = random.uniform(lo, hi, (4000, len(lo)))
    x[::4] = np.where(random.integers(0, 2, x[::4].shape) == 0, lo, hi)
    for scale in (0.1, 0.02, 0.004, 8e-4, 1e-4):
        best = x[np.argsort(logits(layers, x, ops) @ c)[:40]]
        near = np.repeat(best, 50, axis=0) + scale * random.uniform(
            lo - hi, hi - lo, (2000, len(lo))
        )
        x = np.concatenate([best, np.clip(near, lo, hi)])
    return float((logits(layers, x, ops) @ c).min() + d)


def status_of(made, tmp_path, false: bool, told: str) -> Status:
    """Returns what the checker says of a claim, which must not be form or falsehood."""
    report = check_certificate(made.write(tmp_path))
    bad_form = "damaged" in report.reason or "array" in report.reason
    assert not bad_form, report.reason
    assert not (false and report.holds), told
    return report.status


def fuzz_smooth(seeds, tmp_path, certificates: int) -> Counter:
    """Returns what `fuzz` does, of smooth networks; samples refute what is false."""
    found: Counter = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        ops = SMOOTH[seed % 4]
        sizes = [(2, 4, 2), (2, 3, 3, 2), (3, 4, 3, 2)][seed % 3]
        layers = random_layers(random, sizes)
        centre, radius = random.normal(size=sizes[0]), random.choice([0.0, 0.05, 0.4])
        lo, hi = centre - radius, centre + radius
        c, d = random.normal(size=(1, sizes[-1])), random.normal(size=1)
        least = sampled_minimum(random, layers, ops, lo, hi, c[0], d[0])
        for _ in range(certificates):
            # Of the evaluation here; a claim that is not far off may be true.
            away = float(random.choice([1e-12, 1e-4, 1e-2, 0.3]))
            false = random.uniform() < 0.6
            t = least + (away if false else -away)
            made = random_claim(random, layers, (lo, hi), (c, d), t, ops)
            told = f"seed {seed}: {t} > {least}"
            found[false, status_of(made, tmp_path, false, told)] += 1
    return found


def fuzz(seeds, tmp_path, certificates: int) -> Counter:
    """Returns how many claims, true and false, were accepted and rejected."""
    found: Counter = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        sizes = [(2, 4, 2), (2, 3, 3, 2), (3, 5, 2), (1, 2, 2, 2, 2)][seed % 4]
        layers = random_layers(random, sizes)
        centre, radius = random.normal(size=sizes[0]), random.choice([0.05, 0.3, 1.0])
        lo, hi = centre - radius, centre + radius
        c, d = random.normal(size=(1, sizes[-1])), random.normal(size=1)
        exact = exact_min_margin([(w.T, b) for w, b in layers], lo, hi, c[0], d[0])
        for _ in range(certificates):
            away = float(random.choice([1e-9, 1e-4, 1e-2, 0.3]))
            false = random.uniform() < 0.6
            t = exact.value + (ERROR + away if false else -ERROR - away)
            made = random_claim(random, layers, (lo, hi), (c, d), t)
            if false and random.uniform() < 0.3:
                # A second row that is never positive changes nothing.
                c2, d2 = np.full((1, sizes[-1]), 1e-6), np.array([-1.0])
                clause = np.concatenate([c, c2]), np.concatenate([d, d2 + t])
                made = random_claim(random, layers, (lo, hi), clause, t)
            told = f"seed {seed}: {t} > {exact.value}"
            found[false, status_of(made, tmp_path, false, told)] += 1
    return found


def test_no_accepted_bound_is_above_the_minimum(tmp_path):
    found = fuzz(range(8), tmp_path, certificates=20)
    assert found[False, Status.ACCEPTED] > 5 and found[True, Status.REJECTED] > 60


def test_no_accepted_bound_of_a_smooth_network_is_above_the_minimum(tmp_path):
    found = fuzz_smooth(range(12), tmp_path, certificates=5)
    assert found[False, Status.ACCEPTED] > 8 and found[True, Status.REJECTED] > 20


@pytest.mark.campaign
def test_no_accepted_bound_is_above_the_minimum_of_many(tmp_path):
    found = fuzz(range(100, 300), tmp_path, certificates=30)
    print(found)
    assert found[False, Status.ACCEPTED] > 300 and found[True, Status.REJECTED] > 3000


@pytest.mark.campaign
def test_no_accepted_bound_of_many_smooth_networks_is_above_the_minimum(tmp_path):
    found = fuzz_smooth(range(100, 400), tmp_path, certificates=20)
    print(found)
    assert found[False, Status.ACCEPTED] > 300 and found[True, Status.REJECTED] > 2000
