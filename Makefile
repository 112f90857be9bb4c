# make demo   makes the environment if there is none, then a few-shot segmentation and a registration from nothing: demo/report.html
# make test   the whole suite in two processes, then what compares times and memory, alone (slow tests: make test-slow)
# make lint   style and layout (ruff) and annotations (mypy; alone: make types)
# make coverage   the suite again, with the lines and branches that no test reaches: a table, and pages in htmlcov/
# make docs   the site, in docs/_build/html, and its tests (in Chromium, if there is one); warnings are errors
# make pictures [TEMPLATES=BANK]   the pages of docs/gallery.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo

.PHONY: demo docs pictures test test-slow types coverage benchmark lint format clean

demo: $(DEMO_STAMP)
	$(BIN)/nnunet-anatomix demo --out demo

pictures: $(STAMP)
	$(BIN)/anatomix-pretrain preview $(if $(TEMPLATES),--templates $(TEMPLATES)) --preset paper --count 8 --out docs/images/synthetic.png
	$(BIN)/anatomix-pretrain preview $(if $(TEMPLATES),--templates $(TEMPLATES)) --preset paper --count 1 --page artefacts --out docs/images/artefacts.png

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	ANATOMIX_SITE=$(CURDIR)/docs/_build/html $(BIN)/python -m pytest -q tests/docs/test_site.py tests/docs/test_overflow.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks

test-slow: $(STAMP)
	ANATOMIX_TEST_SPAWN=1 $(BIN)/python -m pytest -m slow

types: $(STAMP)
	$(BIN)/mypy

coverage: $(STAMP)
	ANATOMIX_TEST_SPAWN=1 $(BIN)/python -m pytest --cov --cov-report=term --cov-report=html

benchmark: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable -m "slow or not slow"

lint: $(STAMP) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	touch $@ $(DEMO_STAMP)

# The package alone; Python compiles what it imports, which is a part of what was installed.
$(DEMO_STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist demo htmlcov .coverage .mypy_cache *.egg-info
