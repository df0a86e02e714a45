# demo, test, test-native, test-processes, test-faults, lint, security, fuzz, docs, bench, test-oldest, test-browser, test-engines: each makes the virtual environment that it needs.

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

$(VENV)/.bench: $(VENV)/.dev
	@$(call install,$(VENV),--group bench)
	@touch $@

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
test-faults: $(VENV)/.dev
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

# docs/configuration.md, from the options' own documentation.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate_configuration.py

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

# The lowest versions that pyproject.toml promises; there MLflow has not what the recorded engine needs.
test-oldest:
	@test -x $(OLDEST)/bin/python || { echo "Creating $(OLDEST) ..."; $(PYTHON) -m venv $(OLDEST); }
	@$(call install,$(OLDEST),--upgrade "pip>=25.1")
	@$(call install,$(OLDEST),--editable . --group tests --constraint tests/oldest.txt)
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal --engine native

clean:
	rm -rf .venv .venv-oldest .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache demo mlruns

$(VENV)/.browser: $(VENV)/.dev
	@$(call install,$(VENV),--group browser)
	@touch $@

# What MLflow's UI shows, in Chromium. REFRESH_IMAGES=1 takes the README's picture again.
.PHONY: test-browser
test-browser: $(VENV)/.browser
	@command -v chromium > /dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null; } \
		|| { echo "These tests need the command chromium: on Debian, apt-get install chromium."; exit 1; }
	@command -v chromium > /dev/null || { echo "Installing chromium ..."; apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > $(VENV)/chromium.log 2>&1 \
		|| { tail -n 40 $(VENV)/chromium.log; exit 1; }; }
	$(BIN)/python -m pytest tests/browser --timeout 300

# Not in .ci/run: minutes of made-up bytes for the readers of foreign formats. FUZZ_SECONDS=300 is what docs/reliability.md tells of.
FUZZ_SECONDS ?= 300
.PHONY: fuzz
fuzz: $(VENV)/.dev
	@$(call install,$(VENV),--group fuzz)
	$(BIN)/python tests/fuzz/fuzz_otlp_reader.py -max_total_time=$(FUZZ_SECONDS)

$(VENV)/.engines: $(VENV)/.dev
	@echo "Installing ray, dask, spark and celery into $(VENV) (a minute or two) ..."
	@$(call install,$(VENV),--group engines)
	@touch $@

# Clusters of two workers on this machine: Ray, Dask, Celery over Redis, Spark over Java.
.PHONY: test-engines
test-engines: $(VENV)/.engines
	@for need in java:default-jre-headless redis-server:redis-server; do \
		command -v $${need%%:*} > /dev/null && continue; \
		{ test "$$(id -u)" = 0 && command -v apt-get > /dev/null; } \
			|| { echo "These tests need the command $${need%%:*}: on Debian, apt-get install $${need#*:}."; exit 1; }; \
		echo "Installing $${need#*:} ..."; apt-get update -qq \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $${need#*:} > $(VENV)/engines.log 2>&1 \
			|| { tail -n 40 $(VENV)/engines.log; exit 1; }; \
	done
	$(BIN)/python -m pytest tests/engines -n 2 --dist loadfile --timeout 280
