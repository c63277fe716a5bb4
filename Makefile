# Needs make and Python 3.11 or newer; everything else goes into $(VENV).
# `make demo` and `make test` are the two commands of the README; `make help` lists the others.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet)

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two pips in one environment would trip over each other
.DELETE_ON_ERROR:
.PHONY: help demo stamps test slow rare browser minimum wheel lint types docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile
	@echo 'ARGS="..." is handed on to the command; PYTHON=python3.14 picks the interpreter of a new environment.'

demo: $(VENV)/.with-demo  ## train plain and AIM on real images, print the table, draw the picture
	$(BIN)/aimwrap demo $(ARGS)

stamps: $(VENV)/.with-demo $(VENV)/.with-train  ## from nothing to a trained model on Stamps: fetch, build, aimwrap train
	$(BIN)/python benchmarks/stamps/fetch.py
	$(BIN)/python benchmarks/stamps/build.py data/stamps95 --tie 0.95
	$(BIN)/aimwrap train built data/stamps95 --preset ours-frozen --backbone aimwrap.demo.backbone:load_pretrained_backbone \
		--image-size 160 --crop 1 --out runs/stamps95 $(ARGS)

test: $(VENV)/.with-test  ## run the tests and the doctests, without the slow ones, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

slow: $(VENV)/.with-test  ## run the slow tests that CI has time for, in two processes
	$(BIN)/python -m pytest -m 'slow and not rare' --numprocesses 2 --dist worksteal $(ARGS)

rare: $(VENV)/.with-test  ## run the slow tests that CI has no time for, in two processes; do it before a release
	$(BIN)/python -m pytest -m rare --numprocesses 2 --dist worksteal $(ARGS)

browser: $(VENV)/.with-test $(VENV)/.with-app  ## open reports and examples/app.py in Chromium (of the system), and check them
	$(BIN)/python -m pytest -m browser tests/report/browser $(ARGS)

minimum: $(VENV)-minimum/.with-test  ## run the tests on the oldest versions that pyproject.toml allows
	$(VENV)-minimum/bin/python -m pytest $(ARGS)

wheel: $(VENV)/.created  ## build and check the release, and train with the wheel on the lowest and the newest dependencies
	$(PIP_INSTALL) build twine uv
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/check_wheel.py dist/*.whl

lint: $(VENV)/.with-test  ## check style, format (ruff), imports (import-linter), dependencies (deptry) and workflow files
	$(BIN)/ruff check $(ARGS) .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry aimwrap
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

types: $(VENV)/.with-test  ## check types with mypy, strictly
	$(BIN)/mypy $(ARGS)

docs: $(VENV)/.with-docs  ## check the spelling, and build the documentation into site/; any warning is an error
	$(BIN)/codespell
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

clean:  ## remove the environment and everything built
	rm -rf $(VENV) $(VENV)-minimum site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: made after its installation succeeded, old as soon as pyproject.toml changes.
$(VENV)/.with-%: $(VENV)/.created pyproject.toml
	@echo "Installing aimwrap[$*] into $(VENV); the first time this downloads PyTorch and takes some minutes."
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

# pip only ever takes the newest version; uv can take the oldest.
$(VENV)-minimum/.with-test: $(VENV)-minimum/.created pyproject.toml
	$(VENV)-minimum/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(VENV)-minimum/bin/uv pip install --python $(VENV)-minimum/bin/python --resolution lowest-direct --editable '.[test]'
	@touch $@

$(VENV)/.created $(VENV)-minimum/.created:
	@$(PYTHON) -c 'import sys; sys.exit("aimwrap needs Python 3.11 or newer, and %s is %s: try make PYTHON=python3.14" % (sys.executable, sys.version.split()[0]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D)
	@touch $@
