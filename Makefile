# Every target needs python3 and make only; the first one to run makes .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TESTS := $(VENV)/.tests
# What is imported is compiled then: all that is installed would take longer.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile -e

# What is compiled once need not be in every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: certify test test-all quick optimised lint format docs

# Certifies 100 real digit images; see out/digits/report.html.
certify: $(READY)
	$(RUN) experiments/certify.py --model=demo --dataset=digits --inputs=0:100 \
	  --output=out/digits --resume

test: $(TESTS)
	$(MAKE) --no-print-directory --jobs=2 quick optimised

# With the campaigns, which take long, and the documentation.
test-all: $(TESTS)
	$(MAKE) --no-print-directory --jobs=2 quick optimised WHICH="-m ''"
	$(MAKE) --no-print-directory docs

# Compiled quickly; and beside it, what depends on how it is compiled, as users' programs
# are.
quick: $(TESTS)
	$(RUN) -m pytest -n 2 --dist loadfile $(WHICH)

optimised: $(TESTS)
	$(RUN) -m pytest --optimised $(WHICH)

lint: $(TESTS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(TESTS)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Executes the notebooks and builds the documentation into out/site, without warnings;
# `make docs EXECUTE=` shows the notebooks without what they print.
EXECUTE := --execute
NOTEBOOKS := $(wildcard docs/notebooks/*.py)

docs: $(READY)
	$(RUN) $(INSTALL) '.[docs]'
	$(MAKE) $(NOTEBOOKS:.py=.md)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs/notebooks/%.md: docs/notebooks/%.py
	mkdir -p out
	$(RUN) -m jupytext --to ipynb $(EXECUTE) --output out/$*.ipynb $<
	$(RUN) -m nbconvert --to markdown --output-dir docs/notebooks out/$*.ipynb

$(VENV):
	@echo 'creating $(VENV) and installing what jaxcert needs, about a minute ...'
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml | $(VENV)
	$(RUN) $(INSTALL) '.[onnx]'
	touch $(READY)

$(TESTS): pyproject.toml | $(VENV)
	$(RUN) $(INSTALL) '.[onnx,test]'
	touch $(READY) $(TESTS)
