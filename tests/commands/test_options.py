"""Options: their flags, their checks, and the help of every command and study."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging as absl_logging
from absl.testing import flagsaver

from jaxcert.commands import console
from jaxcert.commands.__main__ import COMMANDS, main
from jaxcert.commands.options import REQUIRED, Options, flags_of, help_of, option, read
from jaxcert.errors import InputError

ROOT = Path(__file__).parents[2]
FONTS = "generated new fontManager"
OWN = [name for name in COMMANDS if name != "check"]
STUDIES = sorted(p.parent.name for p in ROOT.glob("experiments/studies/*/command.py"))
MODULES = {name: f"jaxcert.commands.{name}.command" for name in OWN} | {
    name: f"studies.{name}.command" for name in STUDIES
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    output: str = option(REQUIRED, "Folder to write.", empty="name one")
    kind: str = option("a", "Kind.", choices=("a", "b"))
    steps: int = option(30, "Steps.", least=1, most=99)
    seconds: float = option(0.5, "Seconds.", above=0)
    share: float = option(0.5, "Share.", above=0, below=1)
    part: float = option(0.5, "Part.", least=0, below=1)
    within: float = option(0.0, "Distance.", least=0, below=math.inf)
    delta: float = option(0.1, "Step.", above=0, below=math.inf)
    margin: float = option(0.0, "Margin.", above=-math.inf, below=math.inf)
    limit: int | None = option(None, "Images.", least=1)
    names: tuple[str, ...] = option(("x",), "Names.")
    widths: tuple[int, ...] = option((16,), "Widths.")
    radii: tuple[float, ...] = option((0.0, 0.25), "Radii.")
    report: bool = option(True, "Report.")


def parsed(*words: str) -> Request:
    values = flags_of(Request)
    values(["command", "--output=out", *words])
    return read(Request, values)


def test_flags_give_the_options():
    assert parsed() == Request(output="out")
    words = "--kind=b", "--steps=3", "--limit=7", "--names=a,b", "--widths=8,4"
    assert parsed(*words, "--radii=1,2.5", "--noreport") == Request(
        output="out", kind="b", steps=3, limit=7, names=("a", "b"), widths=(8, 4),
        radii=(1.0, 2.5), report=False,
    )  # fmt: skip
    assert parsed("--names=").names == ()
    record = parsed("--steps=3").record()
    assert record["steps"] == 3 and list(record)[0] == "output"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--steps=0", "steps is 0; it must lie in 1 .. 99"),
        ("--seconds=0", "seconds is 0.0; it must be > 0"),
        ("--seconds=nan", "seconds is nan; it must be > 0"),
        ("--share=1", "share is 1.0; it must lie between 0 and 1"),
        ("--part=1", "part is 1.0; it must lie in [0, 1)"),
        ("--within=inf", "within is inf; it must be a number >= 0"),
        ("--delta=inf", "delta is inf; it must be > 0 and finite"),
        ("--margin=inf", "margin is inf; it must be finite"),
        ("--limit=0", "limit is 0; it must be >= 1"),
        ("--output=", "output is empty: name one"),
        ("--widths=a", "--widths takes integers with commas, got a"),
        ("--radii=1,nan", "--radii takes numbers with commas, got 1,nan"),
    ],
)
def test_what_is_out_of_range_is_said(word, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parsed(word)


def test_options_that_are_made_are_checked_too():
    with pytest.raises(InputError, match="kind is 'c'; choose one of a, b"):
        Request(output="out", kind="c")


def names_in(text: str) -> set[str]:
    return set(re.findall(r"^\s+(?:-\w,)?--(?:\[no\])?(\w+)", text, re.M))


def test_help_names_every_flag():
    assert names_in(help_of(Request)) == {f.name for f in dataclasses.fields(Request)}


def test_jaxcert_lists_its_commands(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, purpose in COMMANDS.items():
        assert [line.split(maxsplit=1) for line in lines].count([name, purpose]) == 1
    assert max(map(len, lines)) <= 80
    assert main(["--version-of-no-command"]) == 2
    assert "error: unknown command" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*COMMANDS, *STUDIES])
def test_help_of_a_command(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    if name == "check":  # which knows nothing of the others
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert {"exact", "network", "margin", "domain", "rates"} < names_in(text)
        return
    if name in COMMANDS:
        assert main([name, "--help"]) == 0
    else:
        console.launch(MODULES[name])
    text = capsys.readouterr().out
    command = importlib.import_module(MODULES[name])
    assert text.startswith(command.__doc__.strip())
    fields = {field.name for field in dataclasses.fields(command.Request)}
    assert names_in(text.partition("\nFlags:\n")[2]) == fields
    assert (ROOT / f"experiments/{name}.py").is_file()


def lines_of_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Yields where a command is written down for users, its name and its words."""
    paths = [ROOT / "README.md", ROOT / "Makefile", *ROOT.glob("docs/*.md")]
    paths += ROOT.glob("jaxcert/commands/*/command.py")
    paths += ROOT.glob("experiments/studies/*/*")
    start = r"(?:experiments/(\w+)\.py|^\s*(?:\$ )?jaxcert (\w+))(.*)"
    for path in paths:
        if path.suffix not in (".py", ".md") and path.name != "Makefile":
            continue
        text = re.sub(r"\\\\?\n", " ", path.read_text())
        for found in re.finditer(start, text, re.M):
            name = found[1] or found[2]
            words = found[3].split("`")[0].split("#")[0]
            flags = re.findall(r"(?<=\s)--(\w+)", words)
            yield path.name, name, flags


def test_commands_that_are_written_down_have_their_flags():
    seen = 0
    for where, name, flags in lines_of_commands():
        if name not in MODULES:
            continue
        kind = importlib.import_module(MODULES[name]).Request
        known = {field.name for field in dataclasses.fields(kind)}
        known |= {f"no{name}" for name in known} | {"help", "verbosity"}
        unknown = set(flags) - known
        assert not unknown, f"{where}: {name} has no {sorted(unknown)}"
        seen += bool(flags)
    assert seen > 30


def test_commands_keep_what_they_compile_and_tell_no_news_of_libraries(
    monkeypatch, capsys, caplog
):
    kept: list[bool] = []
    monkeypatch.setattr(console, "use_compilation_cache", lambda: kept.append(True))

    def main() -> int:
        logging.getLogger("matplotlib.font_manager").info(FONTS)
        logging.getLogger("absl").info("what this command does")
        assert kept
        return 0

    logging.getLogger("matplotlib").setLevel(logging.NOTSET)
    with flagsaver.flagsaver(logtostderr=True), caplog.at_level(logging.INFO):
        try:
            assert console.guarded(main)(["command"]) == 0
        finally:
            logging.root.removeHandler(absl_logging.get_absl_handler())
    said = capsys.readouterr().err
    assert FONTS not in said and said.endswith("what this command does\n")
