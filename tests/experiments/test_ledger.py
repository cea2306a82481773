"""The file of rows that survives a kill."""

from __future__ import annotations

import json

import pytest
from _ledger import Ledger

from jaxcert.errors import InputError

CONFIG = {"dataset": "digits", "limit": None}


def test_rows_are_continued(tmp_path):
    first = Ledger(tmp_path / "new", "sweep", CONFIG, resume=False)
    first.append({"id": "a", "loss": float("inf")}, {"id": "b", "loss": 0.5})
    second = Ledger(tmp_path / "new", "sweep", CONFIG, resume=True)
    assert second.rows == first.rows
    second.append({"id": "c"})
    lines = (tmp_path / "new" / "sweep.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c"]


def test_a_torn_line_is_dropped(tmp_path):
    Ledger(tmp_path, "sweep", CONFIG, resume=False).append({"id": "a"}, {"id": "b"})
    path = tmp_path / "sweep.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, len(whole) // 2, -1):
        path.write_bytes(whole[:cut])
        again = Ledger(tmp_path, "sweep", CONFIG, resume=True)
        assert again.torn and again.rows == [{"id": "a"}]
        again.append({"id": "b"})
        assert path.read_bytes() == whole


def test_mistakes(tmp_path):
    Ledger(tmp_path, "sweep", CONFIG, resume=False).append({"id": "a"})
    with pytest.raises(InputError, match="already holds rows. Continue it with --r"):
        Ledger(tmp_path, "sweep", CONFIG, resume=False)
    other = CONFIG | {"limit": 10}
    with pytest.raises(InputError, match="limit is None there and 10 here. Choose ano"):
        Ledger(tmp_path, "sweep", other, resume=True)
    (tmp_path / "sweep.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="line 1: not a row of this program .no obj"):
        Ledger(tmp_path, "sweep", CONFIG, resume=True)
