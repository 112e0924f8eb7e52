# Two commands: `make book` opens the textbook, `make test` runs every check. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
JUPYTER_FLAGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval-sanitize.cfg --nbval-cell-timeout 120

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DELETE_ON_ERROR:
.PHONY: help install book test lint types unit notebooks site execute book-times picture results tradeoff cards bench siege mutants lock clean

help:                   ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1  \t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

install: $(STAMP)       ## the environment in .venv, from the hashed lock

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("pglearn needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'This Python has no venv module: install it (Debian, Ubuntu: apt install python3-venv), then try again.'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@

book: $(STAMP)          ## JupyterLab on localhost, open at the first page; the URL is printed
	JUPYTER_CONFIG_PATH=$(CURDIR)/book/_server$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH} $(BIN)/jupyter lab --ip=localhost --log-level=WARN --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/book/00-start-here.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(JUPYTER_FLAGS)

test: lint types unit notebooks  ## everything that CI runs

lint: $(STAMP)          ## style and spelling, notebooks included
	$(BIN)/ruff check
	$(BIN)/codespell

types: $(STAMP)         ## static types of the library
	$(BIN)/mypy

unit: $(STAMP)          ## unit tests and doctests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

notebooks: $(STAMP)     ## every notebook again, outputs compared with the stored ones
	OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p nbval.plugin -p xdist.plugin -n 2 --dist loadfile $(NBVAL) book

site: $(STAMP)          ## the book as static HTML in build/site, from stored outputs, offline
	rm -rf build/site
	$(BIN)/python -m sphinx -E -n -W --keep-going -q -c book -d build/doctrees . build/site
	@echo open build/site/index.html

execute: $(STAMP)       ## run every notebook in a fresh kernel and store its outputs
	$(BIN)/python -m pglearn.learn.book book/*.ipynb

book-times: $(STAMP)    ## the same, and the run times in the README
	$(BIN)/python -m benchmarks.times

picture: $(STAMP)       ## the picture at the head of the README, and its words
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.picture

results: $(STAMP)       ## the comparison of all defenses on all shipped evidence, and Table 14 in the README
	OMP_NUM_THREADS=1 $(BIN)/pglearn compare data/*-bank.safetensors --patch 5x5 9x9 --top-k 1 3 --out data/results.csv --markdown data/results.md
	$(BIN)/python -m benchmarks.cards --readme

tradeoff: $(STAMP)      ## every defense, patch size and k on all shipped evidence, for an explorer (minutes)
	OMP_NUM_THREADS=1 $(BIN)/pglearn compare data/*-bank.safetensors --patch 1x1 5x5 9x9 13x13 17x17 21x21 25x25 --top-k 1 2 3 4 5 --defense mask mask:confidence mask:prediction features features:confidence clip vote --out data/tradeoff.csv > /dev/null

cards: $(STAMP)         ## every count of every card again, from weights and images (PGLEARN_DATA)
	$(BIN)/python -m benchmarks.cards --check

bench: $(STAMP)         ## the speed tables
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.attacks

siege: $(STAMP)         ## every shipped model and defense under attack (PGLEARN_DATA; an hour): data/siege*.csv
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.siege --out data/siege.csv

mutants: $(STAMP)       ## mutation tests of defenses and certify (slow; not in CI)
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

lock: $(STAMP)          ## requirements.txt again, from pyproject.toml and the public index
	$(BIN)/python -m pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --no-config --upgrade --universal --fork-strategy fewest \
		--python-version 3.11 --generate-hashes --no-annotate --all-extras pyproject.toml --output-file requirements.txt

clean:                  ## all that make and the tests have made
	rm -rf $(VENV) build mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis .ipynb_checkpoints book/.ipynb_checkpoints
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
