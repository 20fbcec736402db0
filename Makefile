# `make test` in a fresh checkout sets everything up by itself, in .venv.
PYTHON ?= python3
WORKDIR ?= runs/demo
BERT_WORKDIR ?= runs/demo_bert

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help setup test parity faults faults-short demo demo-bert lint format types clean

help:
	@echo "make setup    install the library and its tools into .venv"
	@echo "make test     run the tests (all but tests/parity)"
	@echo "make parity   compare with PyTorch: installs torch, runs tests/parity"
	@echo "make faults   do to runs what can befall one (docs/reliability.md); faults-short: a few"
	@echo "make demo     train a small translator, evaluate it, show its attention (WORKDIR=$(WORKDIR))"
	@echo "make demo-bert   pretrain a tiny BERT, evaluate it, fill masks (BERT_WORKDIR=$(BERT_WORKDIR))"
	@echo "make lint     ruff's rules and formatting; 'make format' repairs them"
	@echo "make types    mypy"
	@echo "make clean    remove .venv and the caches; runs/ stays"

# A stamp file stands for an installation, which is redone only when a requirement changes.
setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e '.[dev,demo]'
	@touch $@

.venv/installed-parity: .venv/installed
	$(PIP_INSTALL) -e '.[parity,weights,plan]'
	@touch $@

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

parity: .venv/installed-parity
	$(BIN)/python -m pytest -n auto --dist loadfile tests/parity

faults: setup
	$(BIN)/python -m tests.faults

faults-short: setup
	$(BIN)/python -m tests.faults --short

# XLA asks malloc for its buffers anew each step. By default glibc hands such large ones back to the
# system, whose page faults then took a third of the BERT demo's time. Here it keeps them; other
# systems ignore the setting.
demo demo-bert: export GLIBC_TUNABLES ?= glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736

demo: setup
	$(BIN)/python train.py --config configs/translate_demo.py --workdir $(WORKDIR)
	$(BIN)/python eval.py --workdir $(WORKDIR)
	$(BIN)/python -m transformer_jax.cli.attention --model $(WORKDIR) \
	    --output $(WORKDIR)/attention.html --png $(WORKDIR)/attention.png \
	    "The file was not saved because the name is already in use."

demo-bert: setup
	$(BIN)/python train.py --config configs/bert_demo.py --workdir $(BERT_WORKDIR)
	$(BIN)/python eval.py --workdir $(BERT_WORKDIR)
	printf '%s\n' "This [MASK] returns a list of strings." "If the file does not [MASK], an error is raised." \
	    "The default [MASK] is used if no other is given." "Return [MASK] if the object is empty." \
	    "See the [MASK] for more information." \
	    | $(BIN)/python -m transformer_jax.cli.fill_mask --model $(BERT_WORKDIR)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
