"""The page of every command but certify: one file, its claim, its rows."""

from __future__ import annotations

import re

from made_runs import record, write

from jaxcert.report import write_report
from jaxcert.report.answers import Answers, Rows, Shown, write_answers
from jaxcert.report.charts import Picture
from jaxcert.runs.files import write_atomically


def page_of(tmp_path, **changes):
    answers = {
        "title": "Audit of boxes: <net>",
        "sentence": "1 of 2 boxes is broken.",
        "claims": ("Claim: a broken box holds a point of another class.",),
        "facts": {"required_margin": 0.0, "left out": None, "radii": (0.5, 1.0)},
        "terms": {"margin": "By how much the class wins."},
        "tables": (Rows("All", ("box", "verdict"), [("a", "sound"), ("b", "?")]),),
        "pictures": (Shown("Shares", Picture("data:x", "data:y"), "Of all."),),
    }
    return write_answers(tmp_path / "report.html", Answers(**(answers | changes)))


def test_a_page_says_what_is_claimed_and_lists_all(tmp_path):
    path = page_of(tmp_path)
    text = path.read_text()
    assert [path] == list(tmp_path.iterdir())
    for part in (
        "<h1>Audit of boxes: &lt;net&gt;</h1>", "1 of 2 boxes is broken.",
        "Claim: a broken box holds", "<dd>0</dd>", "<dd>0.5, 1</dd>",
        "<dt>margin</dt>", "<td>a</td><td>sound</td>", 'srcset="data:y"',
    ):  # fmt: skip
        assert part in text
    assert "left out" not in text and text.count('class="sortable"') == 1
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text)


def test_the_report_names_proofs_command_and_hashes(tmp_path):
    records = [record("7-4.csv", 0.05), record("b", 0.02, status="certified")]
    write(tmp_path, records, command="jaxcert certify --inputs=IMAGES")
    page = write_report(tmp_path).read_text()
    assert "No certificate files were written" in page and "ab" * 32 in page
    assert "Run again with --proofs for files" in page
    assert "jaxcert certify --inputs=IMAGES" in page
    assert "inputs, SHA-256 of their float64 values" in page
    assert "<h3>By class</h3>" in page and '"left">certificate' not in page
    # A certificate that a line does not agree with is refused by `read_run`; here the
    # folder alone is looked at.
    (tmp_path / "proofs").mkdir()
    write_atomically(tmp_path / "proofs" / "other.npz", b"")
    assert "No certificate files were written" in write_report(tmp_path).read_text()
