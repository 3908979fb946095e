# make bc    the main job on the real game: videos, latent actions, cloning, mapping, percent of levels solved, picture
# make test  the whole check: lint, types, import rules, tests
# make clean removes what these install and cache; runs/, with all that was trained, stays
# Each makes .venv by itself. Another Python: make bc PYTHON=python3.12. Another preset: make bc ARGS="--preset smoke"
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bc test lint types imports pytest clean

bc: .venv/installed
	$(BIN)/python experiments/bc_coinrun.py $(ARGS)

test: lint types imports pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test
	$(BIN)/mypy

imports: .venv/installed-test
	$(BIN)/lint-imports

# A process a core, of one thread each: on models as small as the tests', threads mostly wait for each other. In the files' order: by
# itself xdist begins with the files of most tests, and the longest, of two tests, would come last, when the other processes are done.
pytest: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	touch $@

.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[test]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
