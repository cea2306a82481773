"""The command `semantic`: files, continuation, the grid, mistakes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from in_process import ran
from tiny import Tiny

from jaxcert.checker import command as check
from jaxcert.commands.inputs import select_inputs
from jaxcert.commands.semantic import command
from jaxcert.commands.semantic.grid import check_on_grid
from jaxcert.commands.semantic.run import (
    Request,
    named_families,
    run,
    sentence,
    table,
    violations,
)
from jaxcert.errors import InputError
from jaxcert.learning.data import load_dataset
from jaxcert.learning.models import load_network
from jaxcert.semantic.changes import FAMILIES


def request(**given) -> Request:
    return Request(**({"changes": ("brightness",), "grid": 201} | given))


def test_semantic_writes_a_line_per_input_and_resumes(tiny: Tiny, capsys, tmp_path):
    network = load_network(tiny.checkpoint)
    chosen = select_inputs("0:6", network, "digits", "test", None)
    asked = request()
    records = run(asked, network, chosen, tmp_path)
    assert violations(records) == 0
    said = sentence(records, asked)
    assert "0 of them inside a certified range" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
    lines = table(records, asked).splitlines()
    assert lines[-1].split()[:2] == ["brightness", "6"] and max(map(len, lines)) <= 80
    path = tmp_path / "semantic.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == [str(i) for i in range(6)]
    right = [r for r in records if r["status"] == "certified"]
    assert right and all(r["grid"]["points"] > 200 for r in right)
    for r in right:
        assert np.isinf(r["lower"]) or 0 < r["lower"] < r["upper"] <= r["lower"] + 1e-3
    ended = ran(
        command, capsys, model=tiny.checkpoint, inputs="0:6", changes="brightness",
        grid=201, output=tmp_path, resume=True, proofs=True,
    )  # fmt: skip
    told = f"certificates: {len(right)} of {len(right)} certified inputs, accepted"
    assert ended.code == 0 and told in ended.out
    assert told in (tmp_path / "report.html").read_text()
    assert check.main([str(tmp_path)]) == 0
    # A line that a kill cut off is made again, the others stay as they are.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    run(request(resume=True), network, chosen, tmp_path)
    again = path.read_text().splitlines()
    assert again[:3] == lines[:3] and len(again) == 6
    # A bracket that less time left open is refined, and keeps its better ends.
    place = next(i for i, r in enumerate(records) if 0 < r["lower"] < np.inf)
    known = json.loads(again[place])
    hurried = known | {"lower": 0.0, "status": "unknown", "timeout": 1.0, "boxes": 2}
    open_lines = [*again[:place], json.dumps(hurried), *again[place + 1 :]]
    path.write_text("\n".join(open_lines) + "\n")
    less = request(resume=True, timeout=1.0)
    assert run(less, network, chosen, tmp_path)[place]["lower"] == 0
    assert path.read_text().splitlines() == open_lines
    assert "1 brackets are wider than the tolerance: --resume with" in " ".join(
        sentence(run(less, network, chosen, tmp_path), less).split()
    )
    found = run(request(resume=True, timeout=500.0), network, chosen, tmp_path)
    refined = found[place]
    assert refined["lower"] == known["lower"] and refined["status"] == "certified"
    assert refined["upper"] <= hurried["upper"] and refined["boxes"] > 2
    last = path.read_text().splitlines()
    assert len(last) == 6 and last[:place] == again[:place]
    # Killed before the line that was refined was removed: the later one counts.
    path.write_text("\n".join([*open_lines, last[place]]) + "\n")
    assert run(less, network, chosen, tmp_path) == found
    assert path.read_text().splitlines() == last
    with pytest.raises(InputError, match="was written with another tolerance: resume"):
        run(request(tolerance=0.01, resume=True), network, chosen, tmp_path)
    with pytest.raises(InputError, match="already holds records .semantic.jsonl.. Con"):
        run(asked, network, chosen, tmp_path)
    assert path.read_text().splitlines() == last
    unlabelled = dataclasses.replace(chosen, labels=None)
    with pytest.raises(InputError, match="the inputs have no labels"):
        run(asked, network, unlabelled, tmp_path)
    of_another = dataclasses.replace(chosen, labels=np.full(6, 10))
    with pytest.raises(InputError, match="label 10 of input 0 is out of range: the"):
        run(asked, network, of_another, tmp_path)


def test_the_grid_notices_a_range_that_is_too_wide(tiny: Tiny):
    network = load_network(tiny.checkpoint)
    digits = load_dataset("digits", "test")
    x = digits.images[0].astype(np.float64)
    label = int(tiny.logits(x[None])[0].argmax())
    change = ("brightness", FAMILIES["brightness"])
    check = check_on_grid(
        network.apply, network.params, change, x, label, (1.0, np.inf), 201
    )
    wrong = [
        b for b in np.linspace(-1, 1, 201)
        if tiny.logits(np.clip(x + b, 0, 1)[None])[0].argmax() != label
    ]  # fmt: skip
    assert check.inside >= len(wrong) > 0
    assert np.isclose(check.nearest, np.abs(wrong).min())


def test_mistakes_are_named():
    with pytest.raises(InputError, match="unknown change fog; known: brightness"):
        named_families(["fog"], [])
    with pytest.raises(InputError, match="unknown change none"):
        named_families([], [])
    with pytest.raises(InputError, match="1 rates for the parameters b, c"):
        named_families(["both"], [1.0])
    assert named_families(["both"], [1.0, 2.0])["both"].rates_up == (1, 2)
    with pytest.raises(InputError, match="tolerance is 0; it must be > 0"):
        request(tolerance=0)
    with pytest.raises(InputError, match="timeout is -1; it must be >= 0"):
        request(timeout=-1)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--changes=fog", "unknown change fog"),
        ("--rates=a,b", "--rates takes numbers with commas, got a,b"),
    ],
)
def test_the_command_says_so_in_one_line(flag, message, capsys):
    ended = ran(command, capsys, flag)
    assert ended.code == 1 and message in ended.err
    assert ended.err.count("\n") == 1
