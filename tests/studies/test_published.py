"""The published inputs and networks: closed brackets, judged by a MILP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from in_process import ran
from studies.milp_reference import command as milp_reference

from jaxcert.commands.certify import command as certify

pytest.importorskip("onnx")

PEER = Path(__file__).parents[2].parent / "shared/peers/parallelepipedonn"
# Five of each, from different classes.
CHOSEN = {
    "mnist_nn-32": ["0-1.csv", "2-3.csv", "4-2.csv", "6-1.csv", "8-5.csv"],
    "fashion_mnist_nn-64": ["0_2.csv", "1_1.csv", "4_4.csv", "7_3.csv", "9_2.csv"],
}


@pytest.mark.campaign
@pytest.mark.skipif(not PEER.is_dir(), reason="needs the networks of ../shared/peers")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_milp_confirms_both_ends_of_closed_brackets(name, tmp_path, capsys):
    model, out = PEER / "networks" / f"{name}.onnx", tmp_path / "run"
    folder = tmp_path / "inputs"
    folder.mkdir()
    source = PEER / "inputs" / name.rsplit("_nn", 1)[0]
    for chosen in CHOSEN[name]:
        (folder / chosen).write_bytes((source / chosen).read_bytes())
    ended = ran(
        certify, capsys, f"--model={model}", f"--inputs={folder}",
        "--oracle=complete", "--noreport", f"--output={out}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    lines = (out / "certificates.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [record["status"] for record in found] == ["certified"] * 5
    for record in found:
        width = record["apothem_upper"] - record["apothem_lower"]
        assert 0 <= width <= 1e-4 and record["apothem_lower"] > 0
    ended = ran(milp_reference, capsys, f"--model={model}", f"--run={out}")
    assert ended.code == 0, ended.out
    ends = "5 confirmed, 0 contradicted, 0 unknown"
    assert re.search(f"lower ends {ends}; witnesses {ends}", ended.out)
