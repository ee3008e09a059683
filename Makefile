# The one door for developers: `make help` lists every verb. The pipeline calls the same targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The interpreter that makes the environment: the first one that is new enough, unless PYTHON names another.
PYTHON ?= $(shell for candidate in python3 python3.11 python3.12 python3.13; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$candidate; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKED := requirements/torch.txt requirements/torch-cuda.txt requirements/lock.txt

.PHONY: help install lock format lint test test-containers wheelhouse images compose-up compose-down demo up openapi dashboards kubernetes-rules deploy-check bench-screening bench-training bench-parameters bench-memory bench-resume bench-coexistence bench-load bench-guidance bench-ingest bench-memorization bench-memcontrol clean

help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[36m%-20s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install the locked requirements (instant when nothing changed)

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "Lethe needs Python 3.11 or newer; install it, or name one: make install PYTHON=/path/to/python" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name another: make install PYTHON=…" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf "$(VENV)"; echo "$(PYTHON) cannot make environments; on Debian install python3-venv" >&2; exit 1; }

# torch comes first and alone, because its two builds (CUDA from the registry, CPU where pip finds one) need different companions.
# It is fetched before it is checked: given hashes, pip would pass over a local wheel, whose link carries none, for the registry's.
$(STAMP): $(LOCKED) pyproject.toml | $(BIN)/python
	@echo "Installing the locked requirements into $(VENV); this takes a minute or two, and longer where torch comes with CUDA."
	@rm -rf $(VENV)/torch
	@$(PIP) download --quiet --no-deps --dest $(VENV)/torch "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/torch.txt)"
	@$(PIP) install --quiet --no-deps --no-index --find-links $(VENV)/torch --require-hashes -r requirements/torch.txt
	@rm -rf $(VENV)/torch
	@case "$$($(BIN)/python -c 'import importlib.metadata; print(importlib.metadata.version("torch"))')" in \
		*+cpu) ;; \
		*) $(PIP) install --quiet --no-deps --require-hashes -r requirements/torch-cuda.txt ;; \
	esac
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/lock.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

lock: $(BIN)/python ## Resolve the requirements anew and write requirements/*.txt with hashes
	$(BIN)/python requirements/lock.py

format: $(STAMP) ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP) ## Check style, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) ## Run the test suite, two files at a time
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not container"

test-containers: $(STAMP) ## Build the images, run the whole system of compose.yaml on an engine of the tests' own, and kill its parts
	$(BIN)/pytest -m container tests/containers

# Which build of torch, optional parts (ray,otel), and what the images are built and run with.
TORCH ?= cpu
EXTRAS ?=
BASE_IMAGE ?=
IMAGE_PREFIX ?=
DOCKER ?= docker
COMPOSE ?= $(shell if docker compose version >/dev/null 2>&1; then echo docker compose; else echo docker-compose; fi)

wheelhouse: $(STAMP) ## Fetch the wheels that the images are built from (TORCH=cpu|cuda, EXTRAS=ray,otel)
	$(BIN)/python deploy/docker/wheelhouse.py $(TORCH) --extras "$(EXTRAS)"

images: ## Build the images from the wheelhouse without a network (TORCH=cpu|cuda, EXTRAS, BASE_IMAGE, IMAGE_PREFIX), their SBOM into dist/
	python3 deploy/docker/build.py $(TORCH) --extras "$(EXTRAS)" --docker "$(DOCKER)" --base-image "$(BASE_IMAGE)" --prefix "$(IMAGE_PREFIX)"

compose-up: ## Start the system of compose.yaml: secrets, buckets, tables, keys, services; may be repeated
	python3 deploy/compose/up.py --compose "$(COMPOSE)"

compose-down: ## Stop it; volumes stay
	$(COMPOSE) down

demo: $(STAMP) ## Run the whole story on real training and write var/demo/report.html
	$(BIN)/lethe demo

up: $(STAMP) ## Start the four services on 127.0.0.1:8001-8004 until Ctrl-C
	$(BIN)/lethe up

openapi: $(STAMP) ## Write the schemas of the services to docs/openapi/
	$(BIN)/python docs/openapi/write.py

dashboards: $(STAMP) ## Write Grafana's dashboards to deploy/grafana/dashboards/
	$(BIN)/python deploy/grafana/write.py

kubernetes-rules: $(STAMP) ## Write the alert rules of deploy/prometheus as a resource of deploy/kubernetes
	$(BIN)/python deploy/kubernetes/write_rules.py

deploy-check: $(STAMP) ## Render the Kubernetes overlays and hold them to the schemas and to the rules by which pods are locked down
	$(BIN)/pytest -q tests/deploy/test_kubernetes.py

bench-screening: $(STAMP) ## Measure prompts per second of screening beside the bare network
	$(BIN)/python -m benchmarks.screening

bench-training: $(STAMP) ## Measure a training step beside a bare loop with the same network
	$(BIN)/python -m benchmarks.training

bench-parameters: $(STAMP) ## Measure a training step of every kind of parameters, and the anti-gradient filter's share of one
	$(BIN)/python -m benchmarks.parameters

bench-memory: $(STAMP) ## Measure trainings' peaks of memory beside what the preflight says
	$(BIN)/python -m benchmarks.memory

bench-resume: $(STAMP) ## Measure what checkpoints cost a training, and how soon a killed one goes on
	$(BIN)/python -m benchmarks.resume

bench-coexistence: $(STAMP) ## Measure screening while a training job runs
	$(BIN)/python -m benchmarks.coexistence

bench-load: $(STAMP) ## Measure services under 1, 8 and 32 callers: shared passes beside one request at a time
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.load

bench-guidance: $(STAMP) ## Measure what classifier-free guidance does to copying (about ten minutes)
	$(BIN)/python -m benchmarks.guidance

bench-ingest: $(STAMP) ## Measure registering 5,000 to 200,000 films: films a second and memory
	$(BIN)/python -m benchmarks.ingest

bench-memorization: $(STAMP) ## Compare what methods of training do to memorization, three seeds (about 50 minutes)
	$(BIN)/python -m benchmarks.memorization

bench-memcontrol: $(STAMP) ## Compare searches of what learns with fixed choices, three seeds (about 40 minutes)
	$(BIN)/python -m benchmarks.memcontrol

clean: ## Remove what tools left behind; keeps .venv and var
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
