"""Checks a run of certify.py by mixed-integer programming: another program, slower.

    python experiments/milp_reference.py --model=NET.onnx --run=out/certify

For every certified input it asks HiGHS for the least margin over the stored box (the
lower end of the bracket), and evaluates the stored witness (the upper end). It reads
the ONNX file and the run by itself and shares no code with jaxcert's bounds, search or
ONNX reader. Works for fully connected ReLU networks. Exit code 1 if the run claims
something that is false; the input, its box and the violating point are printed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from absl import logging

from jaxcert.commands.options import Options, option
from jaxcert.errors import InputError, JaxcertError
from jaxcert.runs.array_files import read_npz
from jaxcert.runs.files import parse_json, read_text
from studies.milp_reference.encoding import Answer, check_box
from studies.milp_reference.network import Mlp, read_mlp

_ROUNDING = 1e-12  # of an apothem, relative to inputs of about 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `milp_reference`."""

    model: str = option("", "The .onnx (or .onnx.gz) file of the run.")
    run: str = option("", "The --output folder of certify.py.")
    inputs: str = option("all", "Rows of the run (0:10; 3,17; all).")
    timeout: float = option(60.0, "Seconds of HiGHS per target.", above=0)
    output: str = option("", "JSONL file of the results, if any.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or not self.run:
            raise InputError("give the network with --model and the run with --run")


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a run says of one input."""

    record: dict[str, Any]
    x: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    witness: np.ndarray
    domain: tuple[float, float]


def read_claims(folder: Path) -> list[Claim]:
    """Returns the rows of a finished run, in the order of its certificates.jsonl."""
    try:
        return _read_claims(folder)
    except JaxcertError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is no finished run of certify.py ({error!r}): finish it with "
            "--resume"
        ) from error


def _read_claims(folder: Path) -> list[Claim]:
    lines = folder / "certificates.jsonl"
    if not lines.is_file():
        raise InputError(f"{folder} holds no certificates.jsonl: name a finished run")
    text = read_text(lines, kind="the lines of a run")
    records = [parse_json(line) for line in text.splitlines() if line]
    settings = parse_json(read_text(folder / "run.json", kind="a run.json"))["config"]
    domain = (float(settings["domain_lower"]), float(settings["domain_upper"]))
    keys = ("x", "lo", "hi", "witness", "input")
    arrays = read_npz(folder / "boxes.npz", "Finish the run with --resume", keys)
    names = arrays["input"].tolist()
    if names != [record["input"] for record in records]:
        raise InputError(f"{folder}: boxes.npz and certificates.jsonl differ in rows")
    flat = [arrays[n].reshape(len(names), -1) for n in ("x", "lo", "hi", "witness")]
    return [
        Claim(record, x, lo, hi, witness, domain)
        for record, x, lo, hi, witness in zip(records, *flat, strict=True)
    ]


def check_lower(network: Mlp, claim: Claim, time_limit: float) -> tuple[Answer, str]:
    """Returns the answer for the stored box, and what else is wrong with it, or ''."""
    record = claim.record
    required = float(record["required_margin"])
    label = int(record["predicted"])
    answer = check_box(network, claim.lo, claim.hi, label, required, time_limit)
    fault = ""
    if not np.all((claim.lo <= claim.x) & (claim.x <= claim.hi)):
        fault = "the input lies outside its box"
    if record["objective"] == "apothem":
        radius = float(record["apothem_lower"]) - _ROUNDING
        lo = np.maximum(claim.x - radius, claim.domain[0])
        hi = np.minimum(claim.x + radius, claim.domain[1])
        if not np.all((claim.lo <= lo) & (hi <= claim.hi)):
            fault = "the box is smaller than apothem_lower"
    return answer, fault


def check_upper(network: Mlp, claim: Claim) -> tuple[str, float]:
    """Returns confirmed, contradicted, unknown or none; and the witness's margin."""
    record, witness = claim.record, claim.witness
    if np.all(np.isnan(witness)):
        return ("none" if math.isinf(float(record["apothem_upper"])) else "missing"), (
            math.nan
        )
    margin, error = network.margin(witness, int(record["predicted"]))
    required = float(record["required_margin"])
    reach = float(np.max(np.abs(witness - claim.x)))
    inside = np.all((claim.domain[0] <= witness) & (witness <= claim.domain[1]))
    near = reach <= float(record["apothem_upper"]) + _ROUNDING
    if not inside or (record["objective"] == "apothem" and not near):
        return "contradicted", margin
    if margin + error <= required:
        return "confirmed", margin
    return ("contradicted" if margin - error > required else "unknown"), margin


def _select(text: str, count: int) -> list[int]:
    """Returns the rows that a selection names."""
    try:
        if text == "all":
            return list(range(count))
        if ":" in text:
            start, stop = (int(part) if part else None for part in text.split(":"))
            return list(range(count))[start:stop]
        return [range(count)[int(part)] for part in text.split(",")]
    except (ValueError, IndexError) as error:
        raise InputError(
            f"--inputs={text} names no rows of a run of {count}: write 0:9; 3,17; all"
        ) from error


def main(request: Request) -> int:
    """Runs the study; returns its exit code."""
    network = read_mlp(request.model)
    claims = read_claims(Path(request.run))
    chosen = [claims[row] for row in _select(request.inputs, len(claims))]
    size = network.layers[0][0].shape[1]
    if any(claim.x.size != size for claim in chosen):
        raise InputError(f"{request.model} takes {size} values, the run has others")
    if request.output:
        Path(request.output).parent.mkdir(parents=True, exist_ok=True)
        with open(request.output, "w") as output:
            return _check(network, chosen, request.timeout, output)
    return _check(network, chosen, request.timeout, None)


def _check(
    network: Mlp, claims: Sequence[Claim], timeout: float, output: IO[str] | None
) -> int:
    """Checks the claims, prints contradictions and the summary; returns the code."""
    begin = time.perf_counter()
    lower = dict.fromkeys(("confirmed", "contradicted", "unknown"), 0)
    upper = dict.fromkeys(
        ("confirmed", "contradicted", "unknown", "missing", "none"), 0
    )
    skipped = 0
    for claim in claims:
        if claim.record["status"] != "certified":
            skipped += 1
            continue
        start = time.perf_counter()
        answer, fault = check_lower(network, claim, timeout)
        ends = {"holds": "confirmed", "violated": "contradicted", "unknown": "unknown"}
        below = "contradicted" if fault else ends[answer.status]
        above, margin = check_upper(network, claim)
        lower[below] += 1
        upper[above] += 1
        seconds = time.perf_counter() - start
        name = claim.record["input"]
        result: dict[str, Any] = {
            "input": name,
            "lower": below,
            "least_margin_bound": answer.bound,
            "least_margin_found": None if answer.point is None else answer.margin,
            "fault": fault,
            "upper": above,
            "witness_margin": None if math.isnan(margin) else margin,
            "seconds": round(seconds, 6),
        }
        if below == "contradicted":
            point = None if answer.point is None else answer.point.tolist()
            result |= {"lo": claim.lo.tolist(), "hi": claim.hi.tolist(), "point": point}
        if above == "contradicted":
            result["witness"] = claim.witness.tolist()
        if "contradicted" in (below, above):
            print(f"CONTRADICTION {json.dumps(result)}", flush=True)
        elif "unknown" in (below, above):
            logging.warning("%s: lower end %s, witness %s", name, below, above)
        if output is not None:
            output.write(json.dumps(result) + "\n")
            output.flush()
    print(
        f"{sum(lower.values())} checked in {time.perf_counter() - begin:.1f} s "
        f"({skipped} not certified): lower ends {_counts(lower)}; "
        f"witnesses {_counts(upper)}"
    )
    return 1 if lower["contradicted"] or upper["contradicted"] else 0


def _counts(counts: dict[str, int]) -> str:
    always = ("confirmed", "contradicted", "unknown")
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n or word in always)
