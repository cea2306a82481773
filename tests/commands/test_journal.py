"""The files that survive a kill: what all resumable runs share, and each one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from studies.asymmetric.files import KIND
from studies.compare_boxes.files import CompareFiles
from studies.relaxations.runs import results

from jaxcert.commands.audit.files import KEYS, AuditFiles
from jaxcert.commands.dual.files import DualFiles
from jaxcert.errors import InputError
from jaxcert.runs.journal import Journal, Kind, Record, named, rows, stating

CONFIG = {"dataset": "digits", "limit": None}


class Names(Journal):
    """Names; what belongs to those of `lost` is lost."""

    lost: tuple[str, ...] = ()

    def __init__(self, folder: Path, resume: bool = False, **config: object) -> None:
        kind = Kind("n.jsonl", "n.json", "a list", "a name", "its turn", ("id", "loss"))
        super().__init__(kind, folder, resume, CONFIG | config, self.told)

    @property
    def names(self) -> list[str]:
        return [record["id"] for record in self.records]

    def add(self, *names: str) -> None:
        self.append(*({"id": name, "loss": np.inf} for name in names))

    def told(self, record: Record) -> str | None:
        if record["loss"] != np.inf:
            raise ValueError("no loss")
        return f"{record['id']} is lost" if record["id"] in self.lost else None


def test_a_run_is_continued(tmp_path):
    first = Names(tmp_path / "new" / "run")
    assert not first.begun
    first.add("a", "b")
    second = Names(tmp_path / "new" / "run", resume=True)
    assert second.begun and not second.torn and second.names == first.names
    second.add("c")
    lines = first.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": name, "loss": "Infinity"} for name in "abc"
    ]
    # Nothing in it, so there is nothing to lose.
    first.path.write_bytes(b"")
    assert not Names(tmp_path / "new" / "run", limit=10).begun
    assert json.loads((tmp_path / "new/run/n.json").read_text())["limit"] == 10


def test_a_record_is_replaced_in_its_place(tmp_path):
    kind = Kind(
        "n.jsonl", "n.json", "a list", "a name", keys=("id",), newer=("loss",),
        key=lambda record: record["id"],
    )  # fmt: skip
    journal = Journal(kind, tmp_path, False, CONFIG)
    journal.append({"id": "a"}, {"id": "b"}, {"id": "c"})
    journal.replace({"id": "b", "loss": np.inf})
    expected = [{"id": "a"}, {"id": "b", "loss": np.inf}, {"id": "c"}]
    for each in (journal, Journal(kind, tmp_path, True, CONFIG)):
        assert each.records == expected == list(each.by_key.values())
    assert journal.path.read_bytes().count(b"\n") == 3
    with pytest.raises(ValueError):
        journal.replace({"id": "d"})
    with pytest.raises(InputError, match="other keys"):
        journal.path.write_text('{"id": "a", "gain": 1}\n')
        Journal(kind, tmp_path, True, CONFIG)


def test_a_line_is_on_the_disk_before_it_is_taken(tmp_path, monkeypatch):
    journal, seen = Names(tmp_path), []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        whole = journal.path.read_bytes()
        seen.append(
            (os.fstat(descriptor).st_size, whole.count(b"\n"), journal.names[:])
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    journal.add("a", "b")
    journal.add("c")
    size = journal.path.stat().st_size
    assert seen == [(size // 3 * 2, 2, []), (size, 3, ["a", "b"])]


def test_a_torn_line_is_dropped(tmp_path):
    journal = Names(tmp_path)
    journal.add("a", "b")
    whole = journal.path.read_bytes()
    for cut in range(len(whole) - 1, len(whole) // 2, -1):
        journal.path.write_bytes(whole[:cut])
        again = Names(tmp_path, resume=True)
        assert again.torn and again.names == ["a"]
        again.add("b")
        assert journal.path.read_bytes() == whole


def test_the_user_is_told_what_is_redone(tmp_path, caplog, monkeypatch):
    path = (journal := Names(tmp_path)).path
    journal.add("a", "b", "c")
    path.write_bytes(path.read_bytes() + b'{"id')
    monkeypatch.setattr(Names, "lost", ("a", "c"))
    assert Names(tmp_path, resume=True).names == ["b"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: a is lost",
        f"{path}: c is lost",
        f"{path}: the last line is torn; its turn is redone",
    ]
    assert path.read_bytes() == b'{"id": "b", "loss": "Infinity"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a name of this program (Expecting property name"),
        (b"[1]", "not a name of this program (no object)"),
        (b'{"id": "a"}', "not a name of this program (other keys)"),
        (b'{"id": "a", "loss": 1}', "not a name of this program (no loss)"),
        (b'{"id": "\xff", "loss": 1}', "not a name of this program ('utf-8' codec"),
    ],
)
def test_other_lines_are_refused(tmp_path, line, reason):
    journal = Names(tmp_path)
    journal.add("a")
    content = journal.path.read_bytes() + line + b"\n" + b"torn"
    journal.path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Names(tmp_path, resume=True)
    assert str(error.value).startswith(f"{journal.path}, line 2: {reason}")
    assert str(error.value).endswith("). Choose another --output; nothing was changed")
    assert journal.path.read_bytes() == content


def test_only_the_same_run_is_continued(tmp_path):
    journal = Names(tmp_path)
    journal.add("a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as error:
        Names(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} already holds a list (n.jsonl). Continue it with --resume, or "
        "choose another --output; nothing was changed"
    )
    for config, words in (
        ({"limit": 10}, "limit is None there and 10 here"),
        ({"seed": 1}, "seed is None there and 1 here"),
    ):
        with pytest.raises(InputError) as error:
            Names(tmp_path, resume=True, **config)
        assert str(error.value) == (
            f"{tmp_path} holds a list with other settings: {words}. Choose another "
            "--output"
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="write .*file: Not a directory. Choose"):
        Names(tmp_path / "file")
    (tmp_path / "file").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "n.json").write_text("[]")
    with pytest.raises(InputError, match="n.json must hold a JSON object. Choose ano"):
        Names(tmp_path, resume=True)


OPENED = {
    "an audit": lambda folder, resume: AuditFiles(folder, resume, CONFIG).journal,
    "a comparison": lambda folder, resume: CompareFiles(folder, resume, CONFIG).journal,
    "a comparison ": lambda folder, resume: Journal(KIND, folder, resume, CONFIG),
    "dual boxes": lambda folder, resume: DualFiles(folder, resume, CONFIG).journal,
    "a run": lambda folder, resume: Journal(
        named("a.jsonl", ()), folder, resume, CONFIG
    ),
    "rows": lambda folder, resume: Journal(rows("a"), folder, resume, CONFIG),
    "records": lambda folder, resume: Journal(
        stating("a.jsonl"), folder, resume, CONFIG
    ),
    "results": lambda folder, resume: results(folder, CONFIG, resume),
}


@pytest.mark.parametrize("noun", OPENED)
def test_no_run_is_overwritten(noun, tmp_path):
    path = OPENED[noun](tmp_path, False).path
    path.write_text('{"id": 1}')
    with pytest.raises(InputError, match=f"already holds {noun}.* with --resume, or"):
        OPENED[noun](tmp_path, False)
    assert path.read_text() == '{"id": 1}'
    assert OPENED[noun](tmp_path, True).torn
    # A ledger takes every object.
    path.write_text("1\n")
    with pytest.raises(InputError, match="line 1: not a.* of this program .no object"):
        OPENED[noun](tmp_path, True)


def test_second_verdicts_and_records_are_refused(tmp_path):
    audit = AuditFiles(tmp_path, False, CONFIG)
    audit.append(dict.fromkeys(KEYS, "x") | {"verdict": "sound"}, None)
    path = audit.journal.path
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(InputError, match="line 2: not a verdict .*the second one on x"):
        AuditFiles(tmp_path, True, CONFIG)
    kind = named("r.jsonl", ("value",))
    records = Journal(kind, tmp_path, False, CONFIG)
    records.append({"name": "a", "value": 1})
    records.path.write_bytes(2 * records.path.read_bytes())
    with pytest.raises(InputError, match="line 2: not a record .*the second one of"):
        Journal(kind, tmp_path, True, CONFIG)


def test_a_file_may_hold_rows_beside_another(tmp_path):
    sweep, growth = rows("sweep"), rows("growth")
    Journal(sweep, tmp_path, False, CONFIG).append({"id": "a"}, {"id": "b"})
    with pytest.raises(InputError, match="sweep.jsonl already holds rows. Continue it"):
        Journal(sweep, tmp_path, False, CONFIG)
    other = CONFIG | {"limit": 10}
    with pytest.raises(InputError, match="sweep.json is of other settings: limit is N"):
        Journal(sweep, tmp_path, True, other)
    Journal(growth, tmp_path, False, other).append({"size": np.inf})
    assert Journal(growth, tmp_path, True, other).records == [{"size": np.inf}]


def test_lines_may_state_the_settings(tmp_path):
    config, kind = {"rates": [1.0, np.inf], "grid": 3}, stating("l.jsonl")
    lines = Journal(kind, tmp_path, False, config)
    lines.append({"input": "0"})
    again = Journal(kind, tmp_path, True, config)
    assert again.records == lines.records == [{"input": "0", "settings": config}]
    for other in ({"grid": 4}, {"rates": [1.0, 2.0]}):
        with pytest.raises(InputError, match=f"with another {[*other][0]}: resume wi"):
            Journal(kind, tmp_path, True, config | other)
    lines.path.write_text('{"input": "0"}\n')
    with pytest.raises(InputError, match="not a record of this program .no 'settings'"):
        Journal(kind, tmp_path, True, config)
