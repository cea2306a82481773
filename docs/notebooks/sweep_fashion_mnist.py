# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A sweep of Fashion-MNIST
#
# Which radius of training gives the best certified accuracy at ONE stated radius? The
# command `jaxcert sweep` trains settings of one shape in one program. A few hundred
# images and one epoch show how; leave `--limit` out for the real answer.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

output = Path(tempfile.mkdtemp()) / "sweep"
command = [
    sys.executable,
    "-m",
    "jaxcert.commands",
    "sweep",
    "--dataset=fashion_mnist",
    "--limit=400",
    "--grid=train_eps=0,0.02,0.05;width=16;epochs=1;ramp=1;warmup=0;batch_size=50",
    "--epsilon=0.02",
    f"--output={output}",
]
done = subprocess.run(command, capture_output=True, text=True, check=False)
assert done.returncode == 0, done.stderr
print(done.stdout)

# %% [markdown]
# Every setting is a line, all of them certified at the radius that the column says.

# %%
rows = [json.loads(line) for line in (output / "sweep.jsonl").read_text().splitlines()]
assert {row["radius"] for row in rows} == {0.02}
for row in sorted(rows, key=lambda row: -row["certified"]):
    print(
        f"trained at {row['setting']['train_eps']:<5} certified {row['certified']:.1%}"
    )

# %% [markdown]
# `report.html` beside it has the table, the front and all hashes in one file.

# %%
assert (output / "report.html").is_file()
