# demo, test, test-native, test-processes, test-faults, lint, security, fuzz, docs, site, bench, test-oldest, test-browser,
# test-engines, test-package, test-matrix, test-dashboard: each makes the virtual environment that it needs.

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN = $(VENV)/bin

# LiteLLM would download its price map at import; nothing here needs a network.
export LITELLM_LOCAL_MODEL_COST_MAP = True
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: demo test test-native test-processes lint format docs bench test-oldest clean

# What pip prints goes to a log, so that the screen shows what was asked for.
install = mkdir -p $(1) && { $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) >> $(1)/install.log 2>&1 \
	|| { tail -n 40 $(1)/install.log; exit 1; }; }

$(BIN)/python:
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(call install,$(VENV),--upgrade "pip>=25.1")

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing dspy, mlflow and this package into $(VENV) (a minute or two) ..."
	@$(call install,$(VENV),--editable . --group examples)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing what tests and linters need into $(VENV) (a minute or two) ..."
	@$(call install,$(VENV),--editable . --group dev)
	@touch $@

# What a heavier target needs beside that: a group of pyproject.toml by the same name.
$(VENV)/.%: $(VENV)/.dev
	@echo "Installing what $* needs into $(VENV) ..."
	@$(call install,$(VENV),--group $*)
	@touch $@

$(VENV)/.browser: $(VENV)/.docs

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# The same tests on the engine that is taken where traces do not go to a tracking store.
test-native: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --engine native

# What needs fresh interpreters and servers.
test-processes: $(VENV)/.dev
	$(BIN)/python -m pytest tests/processes -n 2 --dist loadfile --timeout 300

# Servers that fail, programs that are killed, disks that take no more.
.PHONY: test-faults
test-faults: $(VENV)/.faults
	@.ci/debian postgresql initdb
	$(BIN)/python -m pytest tests/faults -n 2 --dist loadfile --timeout 300

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is known to be unsafe, in the code and in what it stands on; needs a network only to learn of new advisories.
.PHONY: security
security: $(VENV)/.dev
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml dspy_mlflow_callbacks
	$(BIN)/python .ci/audit.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/configuration.md, from the options' own documentation, and docs/examples.md, from what the examples print.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate_configuration.py
	$(BIN)/python docs/generate_examples.py

# The documentation as a site in site/: no link may be broken, and no page may ask the network for anything.
.PHONY: site
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/site

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

# The lowest versions that pyproject.toml promises; there MLflow has not what the recorded engine needs.
test-oldest:
	@test -x $(OLDEST)/bin/python || { echo "Creating $(OLDEST) ..."; $(PYTHON) -m venv $(OLDEST); }
	@$(call install,$(OLDEST),--upgrade "pip>=25.1")
	@$(call install,$(OLDEST),--editable . --group tests --constraint tests/oldest.txt)
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal --engine native

# What a release holds: sdist and wheel, their metadata, and what mypy and pyright see of them in a user's project.
.PHONY: test-package
test-package: $(VENV)/.package
	$(BIN)/python -m pytest tests/package --timeout 300

# The example's service, scraped by a real Prometheus. Not in .ci/run: it needs the commands prometheus and promtool, from Debian's packages.
.PHONY: test-dashboard
test-dashboard: $(VENV)/.dashboard
	@.ci/debian prometheus promtool
	$(BIN)/python -m pytest tests/dashboard --timeout 300

# Pythons, and the lowest and newest versions of dspy and mlflow, each in an environment of its own with the built wheel: a quarter of
# an hour. MATRIX="--python 3.12 --dspy oldest" runs a part; docs/compatibility.md is written by a run of all.
.PHONY: test-matrix
test-matrix: $(VENV)/.package
	$(BIN)/python tests/matrix/matrix.py $(MATRIX)

clean:
	rm -rf .venv .venv-oldest .venv-matrix site dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache demo mlruns

# What MLflow's UI and the documentation's site show, in Chromium. REFRESH_IMAGES=1 takes the README's picture again.
.PHONY: test-browser
test-browser: $(VENV)/.browser
	@.ci/debian chromium chromium
	$(BIN)/python -m pytest tests/browser --timeout 300

# Not in .ci/run: minutes of made-up bytes for the readers of foreign formats. FUZZ_SECONDS=300 is what docs/reliability.md tells of.
FUZZ_SECONDS ?= 300
.PHONY: fuzz
fuzz: $(VENV)/.dev
	@$(call install,$(VENV),--group fuzz)
	$(BIN)/python tests/fuzz/fuzz_otlp_reader.py -max_total_time=$(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz/fuzz_headers.py -max_total_time=$(FUZZ_SECONDS)

# Clusters of two workers on this machine: Ray, Dask, Celery over Redis, Spark over Java; what they store is in PostgreSQL and SQLite.
# A test that hangs ends with its process: a run that waits for an engine would wait on.
.PHONY: test-engines
test-engines: $(VENV)/.engines
	@.ci/debian default-jre-headless java
	@.ci/debian redis-server redis-server
	@.ci/debian postgresql initdb
	$(BIN)/python -m pytest tests/engines -n 2 --dist loadfile --timeout 280 --timeout-method thread
