# Each verb installs what it needs into .venv and nothing anywhere else. Stamps inside .venv make repeated calls quick.
#
#   PYTHON    the interpreter that .venv is made with (3.11 or newer)
#   TORCH     the torch to install, e.g. TORCH=torch for the newest that fits
#   PIP_ARGS  more arguments for pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu for a CPU-only torch
#   CONTAINER what builds images: docker, podman or buildah
#   IMAGES    the images to build
#   REGISTRY  registry and path of the images, e.g. registry.example.com/ml; empty for images on the nodes
#   IMAGE_BUILD, IMAGE_LOAD
#             shell commands that build $$image from $$file with $$arguments, and bring it to a cluster's nodes, e.g.
#             IMAGE_LOAD='docker push $$image' or IMAGE_LOAD='kind load docker-image $$image'
#   WORKERS   processes that run the tests side by side; 0 for none but pytest's own
#   ARGS      more arguments for the tool that the verb runs, e.g. make test ARGS="tests/unit -k router"

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
CONTAINER ?= docker
IMAGES ?= light cpu
REGISTRY ?=
IMAGE_BUILD ?= $(CONTAINER) build --tag $$image --file $$file $$arguments .
IMAGE_LOAD ?= true
WORKERS ?= 2
ARGS ?=

# What the cluster's verbs act on: kubectl's own default unless named.
KUBECONFIG ?= $(HOME)/.kube/config
test-cluster cluster-demo: export KUBECONFIG := $(KUBECONFIG)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PROTOS := $(wildcard protos/trivium/v1/*.proto)
PACKAGES := services router_service labeler_jobs evaluation
SGLANG_SETUP := $(wildcard tests/sglang_cpu/*.py tests/sglang_cpu/*.txt tests/sglang_cpu/site/*)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install check test test-cluster coverage demo bench evidence reference-pair images cluster-demo protos clean

help:  ## Lists the verbs.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Installs Trivium into .venv.

demo: $(VENV)/.installed  ## Starts the reference pair, answers one question of each domain, stops it.
	@$(BIN)/trivium demo $(ARGS)

test: $(VENV)/.installed-dev $(VENV)/.installed-sglang  ## Runs the unit, contract and integration tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not cluster" --numprocesses $(WORKERS) $(ARGS)

test-cluster: $(VENV)/.installed-dev  ## Runs the tests on the cluster of KUBECONFIG, after make images.
	$(BIN)/python -m pytest tests/cluster --image-registry "$(REGISTRY)" --image-tag $(VERSION) $(ARGS)

coverage: $(VENV)/.installed-dev  ## Runs the unit tests and lists the lines that none of them reaches.
	$(BIN)/python -m pytest tests/unit --cov --cov-report=term-missing $(ARGS)

check: $(VENV)/.installed-dev node_modules/.installed  ## Lints, formats, types, import rules, contracts, images.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd protos && ../node_modules/.bin/buf lint
	$(BIN)/hadolint charts/images/Dockerfile.*

bench: $(VENV)/.installed  ## Measures tokens/s of the services against the in-process loop.
	$(BIN)/trivium bench $(ARGS)

evidence: $(VENV)/.installed-learning  ## Labels, routers, baselines, ablations and their report (hours on two cores; resumes).
	$(BIN)/trivium evaluate evidence $(ARGS)
	$(BIN)/trivium evaluate report

reference-pair: $(VENV)/.installed-learning  ## Rebuilds the reference pair from nothing (hours on two cores; resumes).
	$(BIN)/python -m evaluation.reference.build $(ARGS)

images:  ## Builds the images trivium-light and trivium-cpu (IMAGES="light cpu gpu" for all).
	@set -e; arguments="--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD)"; \
	for name in $(IMAGES); do \
		image=$(REGISTRY:%=%/)trivium-$$name:$(VERSION) file=charts/images/Dockerfile.$$name began=$$(date +%s); \
		$(IMAGE_BUILD); \
		$(IMAGE_LOAD); \
		echo "$$image is ready after $$(($$(date +%s) - began)) s"; \
	done

cluster-demo: $(VENV)/.installed-dev images  ## Builds images, installs on the cluster of KUBECONFIG, streams an answer, uninstalls.
	$(BIN)/python -m tests.cluster.demo --image-registry "$(REGISTRY)" --image-tag $(VERSION) $(ARGS)

protos: $(VENV)/.installed-dev  ## Generates the Python code of the contracts.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python protos/build.py

clean:  ## Removes .venv, caches and everything generated.
	rm -rf $(VENV) node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	rm -f protos/trivium/v1/*_pb2*
	find $(PACKAGES) tests protos -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Trivium needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Building the package generates the contracts' code, so a changed .proto installs anew.
$(VENV)/.installed: pyproject.toml protos/build.py $(PROTOS) | $(BIN)/python
	@echo "installing into $(VENV) (torch and transformers are large: a few minutes the first time)"
	$(PIP) '$(TORCH)' --editable '.[engines]'
	@touch $@

$(VENV)/.installed-learning: $(VENV)/.installed
	$(PIP) '$(TORCH)' --editable '.[learning]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) '$(TORCH)' --editable '.[dev]'
	@touch $@

# The real SGLang on a CPU is test equipment, no part of the product.
$(VENV)/.installed-sglang: $(VENV)/.installed-dev $(SGLANG_SETUP)
	$(BIN)/python -m tests.sglang_cpu.install
	@touch $@

# No lock file: buf is pinned exactly and depends only on its own binary, one package a platform, at the same version;
# `npm ci` refuses a lock that lacks a platform which a registry mirror doesn't carry.
node_modules/.installed: package.json
	@command -v npm > /dev/null || { echo "make check needs npm: buf, the linter of the contracts, comes from it" >&2; exit 1; }
	npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
