"""Every mistake of a user's ends in one clear line, code 1 or 2, and no traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jaxcert.commands.certify import command as certify

INPUTS = "--inputs=0:2"
ABSENT = "no mnist test split: no "


def save_onnx(path: Path, operator: str, weights: np.ndarray) -> None:
    """Writes x -> operator(x @ weights)."""
    features, outputs = weights.shape
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node(operator, ["y"], ["z"], name="last"),
    ]
    shapes = {"x": [1, features], "z": [1, outputs]}
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    weight = numpy_helper.from_array(weights.astype(np.float32), "w")
    graph = helper.make_graph(nodes, "net", [ends["x"]], [ends["z"]], [weight])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)


@pytest.fixture(scope="session")
def wrong(tiny, tmp_path_factory) -> Path:
    """A folder of files with something wrong in each."""
    folder = tmp_path_factory.mktemp("wrong")
    checkpoint, network = tiny.checkpoint.read_bytes(), tiny.onnx.read_bytes()
    (folder / "half.npz").write_bytes(checkpoint[: len(checkpoint) // 2])
    (folder / "half.onnx").write_bytes(network[: len(network) // 2])
    for name in ("text.npz", "text.onnx", "text.txt", "file"):
        (folder / name).write_text("no network, but a few words of text\n")
    for name in ("none.npz", "none.onnx"):
        (folder / name).write_bytes(b"")
    for name in ("folder.npz", "folder.onnx", "empty", "blank", "far", "class"):
        (folder / name).mkdir()
    arrays = dict(np.load(tiny.checkpoint))
    for name, value in (("nan", np.nan), ("inf", np.inf), ("other", 7.0)):
        bias = arrays["head/layers/1/bias"].copy()
        bias[3] = value
        np.savez(folder / f"{name}.npz", **(arrays | {"head/layers/1/bias": bias}))
    ones, nan = np.ones((64, 10)), np.ones((64, 10))
    nan[5, 5] = np.nan
    save_onnx(folder / "nan.onnx", "Relu", nan)
    save_onnx(folder / "sinh.onnx", "Sinh", ones)
    save_onnx(folder / "unheard.onnx", "Unheard", ones)
    save_onnx(folder / "single.onnx", "Relu", np.ones((64, 1)))
    save_onnx(folder / "three.onnx", "Relu", np.ones((64, 3)))
    save_onnx(folder / "mnist.onnx", "Relu", np.ones((784, 10)))

    grey = np.full((2, 64), 0.5)
    np.save(folder / "shape.npy", np.zeros((3, 5)))
    np.save(folder / "flat.npy", np.zeros(64))
    np.save(folder / "rows0.npy", np.zeros((0, 64)))
    np.save(folder / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "far.npy", np.concatenate([grey, grey + 1]))
    np.save(folder / "below.npy", grey - 0.6)
    np.save(folder / "nan.npy", grey * np.nan)
    np.save(folder / "inf.npy", grey * np.inf)
    np.savez(folder / "classes.npz", x=grey, labels=[0, 10], names=["good", "bad"])
    np.savez(folder / "floats.npz", x=grey, labels=[0.0, 1.0])
    np.savez(folder / "key.npz", pixels=grey)
    (folder / "half.npy").write_bytes((folder / "far.npy").read_bytes()[:200])

    def csv(path: str, *values: object) -> None:
        (folder / path).write_text(",".join(map(str, values)))

    csv("blank/1-1.csv")
    csv("far/1-1.csv", *[0.5] * 64)
    csv("far/2-1.csv", *[0.5] * 63, 255)
    csv("class/12-1.csv", *[0.5] * 64)
    csv("few.csv", 1, 2, 3)
    csv("words.csv", *["x"] * 64)
    csv("nan.csv", *["nan"] * 64)
    return folder


# Flags, and the error that follows "error: "; {} is the folder of wrong files.
MISTAKES = [
    # networks
    ("--model={}/absent.npz", "no checkpoint {}/absent.npz"),
    ("--model={}/absent.onnx", "there is no file {}/absent.onnx: check the path"),
    ("--model={}/text.txt", "cannot read the model '{}/text.txt': name an .onnx file"),
    ("--model=Demo", "cannot read the model 'Demo': name an .onnx file, a checkpoint"),
    ("--model=", "cannot read the model '': name an .onnx file"),
    (
        "--model=~no-such-user/x.onnx",
        "~no-such-user/x.onnx: there is no such home directory",
    ),
    (
        "--model={}/half.npz",
        "{}/half.npz is damaged (File is not a zip file). It is ",
    ),
    (
        "--model={}/text.npz",
        "{}/text.npz is damaged (File is not a zip file). It is ",
    ),
    (
        "--model={}/none.npz",
        "{}/none.npz is damaged (File is not a zip file). It is ",
    ),
    ("--model={}/key.npz", "{}/key.npz is not a jaxcert checkpoint"),
    ("--model={}/folder.npz", "no checkpoint {}/folder.npz"),
    (
        "--model={}/nan.npz",
        "{}/nan.npz: tiny: array head/layers/1/bias holds NaN or infinity",
    ),
    (
        "--model={}/inf.npz",
        "{}/inf.npz: tiny: array head/layers/1/bias holds NaN or infinity",
    ),
    ("--model={}/other.npz", "{}/other.npz: the weights do not have the content hash"),
    ("--model={}/half.onnx", "{}/half.onnx is not an ONNX file, or is truncated: cop"),
    ("--model={}/text.onnx", "{}/text.onnx is not an ONNX file, or is truncated: cop"),
    ("--model={}/none.onnx", "{}/none.onnx holds no network: copy the whole file"),
    ("--model={}/folder.onnx", "{}/folder.onnx is not a file: name an .onnx or"),
    ("--model={}/nan.onnx", "weight 'w' in {}/nan.onnx contains NaN or infinity: the"),
    ("--model={}/sinh.onnx", "operator 'Sinh' (node 'last') in {}/sinh.onnx is not s"),
    ("--model={}/unheard.onnx", "operator 'Unheard' (node 'last') in {}/unheard.onn"),
    ("--model={}/single.onnx", "the network returns shape (1,) for one input; certif"),
    # a network and what it does not fit
    ("--model={}/mnist.onnx", "the network takes inputs of shape (784,), the data se"),
    ("--model={}/three.onnx --inputs=0:9", "label 3 of input 1 is out of range: the "),
    # inputs
    ("--inputs={}/absent.csv", "no such file or folder: {}/absent.csv"),
    ("--inputs={}/absent", "no such file or folder: {}/absent"),
    ("--inputs={}/text.txt", "{}/text.txt: inputs come as a folder of .csv, a .csv,"),
    ("--inputs={}/empty", "no .csv file in the folder {}/empty"),
    ("--inputs={}/blank", "every .csv file in {}/blank is empty"),
    ("--inputs={}/few.csv", "{}/few.csv has 3 values, the network takes 64"),
    ("--inputs={}/words.csv", "{}/words.csv: value 1 is not a number: 'x'"),
    ("--inputs={}/nan.csv", "{}/nan.csv: value 1 is not finite: nan"),
    ("--inputs={}/far", "input 2-1.csv lies outside the domain: its values span [0.5"),
    ("--inputs={}/class", "label 12 of input 12-1.csv is out of range: the network h"),
    ("--inputs={}/shape.npy", "{}/shape.npy has an array of shape (3, 5), the networ"),
    ("--inputs={}/flat.npy", "{}/flat.npy has an array of shape (64,), the network"),
    ("--inputs={}/rows0.npy", "{}/rows0.npy holds no inputs"),
    ("--inputs={}/object.npy", "{}/object.npy is damaged (it holds pickled objects"),
    (
        "--inputs={}/half.npy",
        "{}/half.npy is damaged (shape (4, 64) of <f8 takes",
    ),
    ("--inputs={}/far.npy", "input 2 lies outside the domain: its values span [1.5, "),
    ("--inputs={}/below.npy", "input 0 lies outside the domain: its values span [-0."),
    ("--inputs={}/nan.npy", "{}/nan.npy: input 0 has a value not finite"),
    ("--inputs={}/inf.npy", "{}/inf.npy: input 0 has a value not finite"),
    ("--inputs={}/classes.npz", "label 10 of input bad is out of range: the network "),
    ("--inputs={}/floats.npz", "{}/floats.npz: labels must be 2 integers, got float"),
    ("--inputs={}/key.npz", "{}/key.npz needs an array x or images, has: pixels"),
    ("--inputs=~no-such-user/x", "~no-such-user/x: there is no such home directory"),
    ("--inputs=", "cannot read the selection ''; write all, 5, 3,17, 0:100 or 0:100:1"),
    ("--inputs=some", "cannot read the selection 'some'; write all, 5, 3,17, 0:100"),
    ("--inputs=-3", "cannot read the selection '-3'; write all"),
    ("--inputs=1.5", "cannot read the selection '1.5'; write all"),
    ("--inputs=5:5", "selection '5:5' is empty"),
    ("--inputs=0:4:0", "selection '0:4:0': the step must be at least 1"),
    ("--inputs=3,3", "selection '3,3' names an input twice"),
    ("--inputs=0:361", "selection '0:361' goes past the end: there are 360 inputs, 0"),
    ("--inputs=3,17 --domain_upper=0.5", "input 3 lies outside the domain: its valu"),
    # data sets
    ("--dataset=cifar", "unknown data set 'cifar'; known: digits, mnist, fashion_mni"),
    ("--split=validation", "unknown split 'validation' of digits; known: train, test"),
    ("--dataset=mnist --data_dir={}/absent", "no data directory {}/absent"),
    ("--dataset=mnist --data_dir={}/empty", ABSENT + "{}/empty/mnist/VERSION/datase"),
    (
        "--dataset=mnist --data_dir=~no-such-user",
        "~no-such-user: there is no such home directory",
    ),
    # settings
    ("--oracle=guess", "unknown oracle 'guess'; choose one of ibp, crown"),
    ("--cuts", "--cuts belongs to --oracle=complete: no other branches"),
    ("--objective=volume", "unknown objective 'volume'; choose apothem"),
    ("--tolerance=-1e-4", "tolerance is -0.0001; it must be > 0"),
    ("--tolerance=0", "tolerance is 0.0; it must be > 0"),
    ("--tolerance=nan", "tolerance is nan; it must be > 0"),
    ("--tolerance=inf", "tolerance is inf; it must be > 0"),
    ("--required_margin=nan", "required_margin is nan; it must be a number"),
    ("--required_margin=inf", "required_margin is inf; it must be a number"),
    ("--domain_lower=2", "the domain is empty: its lower bound exceeds its upper one"),
    ("--domain_lower=nan", "the domain has NaN or infinite bounds: give finite ones"),
    ("--domain_upper=inf", "the domain has NaN or infinite bounds: give finite ones"),
    ("--candidates=0", "candidates is 0; it must lie in 1 .. 65536"),
    ("--candidates=-8", "candidates is -8; it must lie in 1 .. 65536"),
    ("--candidates=1000000000000", "candidates is 1000000000000; it must lie in 1 .."),
    ("--restarts=0", "restarts is 0; it must lie in 1 .. 1024"),
    ("--restarts=1000000000", "restarts is 1000000000; it must lie in 1 .. 1024"),
    ("--batch_size=0", "batch_size is 0; it must be an integer >= 1"),
    ("--batch_size=-64", "batch_size is -64; it must be an integer >= 1"),
    ("--time_limit=-1", "time_limit is -1.0; it must be >= 0"),
    ("--time_limit=nan", "time_limit is nan; it must be >= 0"),
    ("--seed=-1", "seed is -1; it must lie in 0 .. 4294967295"),
    ("--seed=99999999999999999999", "seed is 99999999999999999999; it must lie in 0"),
    # outputs
    ("--output=", "output is empty: name the folder to write"),
    ("--output={}/file", "cannot write {}/file: Not a directory. Choose another --out"),
    ("--output={}/file/below", "cannot write {}/file/below: Not a directory. Choose"),
    ("--output={}/file/below --model=demo", "cannot write {}/file/below: Not a dire"),
    # the command line
    ("stray", "unexpected argument 'stray'; options are written --name=value"),
    ("--resume true", "unexpected argument 'true'; options are written --name=value"),
]


def one_line(ended, code: int) -> str:
    """Asserts that a run ended as a mistake does; returns what follows "error: "."""
    assert ended.code == code and ended.out == ""
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1
    return ended.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("flags", "message"), MISTAKES, ids=[flags for flags, _ in MISTAKES]
)
def test_mistakes(run_certify, calls, wrong, tmp_path, flags, message):
    out = tmp_path / "out"
    words = flags.replace("{}", str(wrong)).split(" ")
    text = one_line(run_certify(INPUTS, f"--output={out}", *words), 1)
    assert text.startswith(message.replace("{}", str(wrong)))
    assert calls == []
    assert not list(tmp_path.rglob("certificates.jsonl"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--tolerance=small", "flag --tolerance=small: could not convert string to fl"),
        ("--candidates=2.5", "flag --candidates=2.5: invalid literal for int()"),
        ("--batch_size=", "flag --batch_size=: invalid literal for int()"),
        ("--report=maybe", "flag --report=maybe: ('Non-boolean argument to boolean"),
        ("--epsilon=0.1", "Unknown command line flag 'epsilon'"),
        ("--tolerence=0.1", "Unknown command line flag 'tolerence'. Did you mean: tol"),
        ("--model", "Missing value for flag --model"),
        ("--flagfile={}/absent", "ERROR:: Unable to open flagfile"),
        ("--stderrthreshold=loud", "--stderrthreshold must be one of"),
    ],
)
def test_malformed_flags(run_certify, wrong, flag, message):
    text = one_line(run_certify(flag.replace("{}", str(wrong))), 2)
    assert text.startswith(message) and text.endswith("(see --help)")


def test_no_source_of_mnist_names_all_three(run_certify, monkeypatch, tmp_path):
    import urllib.request

    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name in ("TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("JAXCERT_DATA_DIR", raising=False)
    text = one_line(run_certify("--dataset=mnist", f"--output={tmp_path}"), 1)
    assert text.startswith("found no mnist test split and could not download it")
    for way in ("(1) give data_dir", "(2) put", "(3) make https://"):
        assert way in text


def test_unsupported_primitive(run_certify, monkeypatch, tmp_path):
    select = certify.select_network

    def multiplied_network(*arguments):
        network = select(*arguments)
        return dataclasses.replace(
            network, apply=lambda params, x: jnp.cumprod(x.ravel())[:10]
        )

    monkeypatch.setattr(certify, "select_network", multiplied_network)
    text = one_line(run_certify(INPUTS, f"--output={tmp_path / 'out'}"), 1)
    assert "'cumprod'" in text and "register_rule" in text
    assert Path(__file__).name in text  # where


# Outputs that are there already


@pytest.fixture
def finished(run_certify, tmp_path) -> Path:
    """The folder of a run over inputs 0:2."""
    out = tmp_path / "out"
    assert run_certify(INPUTS, "--noreport", f"--output={out}").code == 0
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_an_old_run_is_not_written_over(run_certify, finished, calls):
    before = contents(finished)
    text = one_line(run_certify(INPUTS, f"--output={finished}"), 1)
    assert text.startswith(f"{finished} already holds a run (certificates.jsonl). Con")
    assert contents(finished) == before and calls == []


@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        ("--tolerance=0.001", "tolerance is 0.0001 there and 0.001 here"),
        ("--required_margin=-1", "required_margin is 0.0 there and -1.0 here"),
        ("--oracle=ibp", "oracle is 'crown' there and 'ibp' here"),
        ("--domain_upper=2", "domain_upper is 1.0 there and 2.0 here"),
        ("--domain_lower=-1", "domain_lower is 0.0 there and -1.0 here"),
        ("--candidates=4", "candidates is 8 there and 4 here"),
        ("--restarts=1", "restarts is 2 there and 1 here"),
        ("--seed=3", "seed is 0 there and 3 here"),
        ("--split=train", "dataset is 'digits test' there and 'digits train' here"),
        ("--model={onnx}", "model_hash is '"),
        ("--inputs={npz}", "dataset is 'digits test' there and 'x.npz' here"),
    ],
)
def test_a_run_is_continued_only_as_it_was(
    run_certify, finished, calls, tiny, tmp_path, flag, difference
):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 64)))
    flag = flag.format(onnx=tiny.onnx, npz=tmp_path / "x.npz")
    before = contents(finished)
    ended = run_certify(INPUTS, "--resume", f"--output={finished}", flag)
    text = one_line(ended, 1)
    assert text.startswith(f"{finished} holds a run with other settings: ")
    assert difference in text and "choose another --output" in text
    assert contents(finished) == before and calls == []


@pytest.mark.parametrize("change", ["x", "labels"])
def test_a_changed_input_is_not_taken_for_done(run_certify, calls, tmp_path, change):
    path, out = tmp_path / "x.npz", tmp_path / "out"
    arrays = {"x": np.full((2, 64), 0.5), "labels": np.array([1, 2])}
    arguments = f"--inputs={path}", f"--output={out}", "--noreport"
    np.savez(path, names=["a", "b"], **arrays)
    assert run_certify(*arguments).code == 0
    assert run_certify(*arguments, "--resume").code == 0 and calls == [2]
    arrays[change][1] = 0
    np.savez(path, names=["a", "b"], **arrays)
    text = one_line(run_certify(*arguments, "--resume"), 1)
    assert text.startswith("input b has other values or another label in the run that")
    assert calls == [2]


def garble(out: Path) -> None:
    lines = out / "certificates.jsonl"
    lines.write_text("garbage\n" + lines.read_text())


def repeat(out: Path) -> None:
    lines = out / "certificates.jsonl"
    lines.write_text(lines.read_text() * 2)


def disorder(out: Path) -> None:
    lines = out / "certificates.jsonl"
    text = re.sub(
        r'"apothem_upper": [0-9.e-]+', '"apothem_upper": 0', lines.read_text()
    )
    lines.write_text(text + lines.read_text())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (garble, "certificates.jsonl, line 1: not a record of this program"),
        (repeat, "certificates.jsonl: input '0' has 2 lines. Remove all but one"),
        (disorder, "is not ordered"),
        (lambda out: (out / "run.json").unlink(), "but no run.json, so its settings"),
        (lambda out: (out / "run.json").write_text("{"), "run.json is not JSON"),
        (lambda out: (out / "summary.json").write_text("["), "summary.json is not JS"),
        (lambda out: (out / "boxes.npz").write_bytes(b"PK"), "boxes.npz is damaged"),
    ],
)
def test_damaged_runs(run_certify, finished, calls, damage, message):
    damage(finished)
    text = one_line(run_certify(INPUTS, "--resume", f"--output={finished}"), 1)
    assert str(finished) in text and message in text and calls == []


def boast(out: Path) -> None:
    path = out / "certificates.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["apothem_lower"], record["apothem_upper"] = 0.9, 0.95
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_tampered_lines_are_not_believed(run_certify, finished, calls):
    boast(finished)
    before = contents(finished)
    ended = run_certify(INPUTS, f"--output={finished}", "--resume")
    message = one_line(ended, 1)
    assert "certificates.jsonl, line 1, input " in message and "0.9" in message
    assert "Restore both, or remove the line and continue the run" in message
    assert contents(finished) == before and calls == []


def test_lost_boxes_are_redone(run_certify, finished, calls):
    (finished / "boxes.npz").unlink()
    arguments = INPUTS, "--resume", "--noreport", f"--output={finished}"
    ended = run_certify(*arguments)
    assert ended.code == 0 and calls == [2]
    assert ended.err.startswith("warning: 2 of 2 lines of ")


# A machine that gives out


@contextlib.contextmanager
def largest_file(size: int):
    """Lets files grow to so many bytes only: a full disk, as the script sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(run_certify, finished, calls):
    arguments = "--noreport", "--resume", f"--output={finished}", "--verbosity=-1"
    with largest_file(3000):
        text = one_line(run_certify("--inputs=0:4", *arguments), 1)
    assert "cannot write" in text and str(finished) in text
    assert calls == [2]
    assert run_certify("--inputs=0:4", *arguments).code == 0
    assert calls == [2, 2]  # what was there is still there
    fresh = finished.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    with largest_file(10):
        text = one_line(run_certify(INPUTS, "--noreport", f"--output={fresh}"), 1)
    assert text.startswith(f"cannot write {fresh}/run.json")
    assert not (fresh / "certificates.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"),
    ],
)
def test_too_little_memory(run_certify, monkeypatch, tmp_path, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", fails)
    text = one_line(run_certify(INPUTS, f"--output={tmp_path / 'out'}"), 1)
    assert text == "out of memory: make --batch_size smaller"


def test_other_errors_of_the_machine_are_no_mistakes(
    run_certify, monkeypatch, tmp_path
):
    def fails(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run_certify(INPUTS, f"--output={tmp_path / 'out'}")
