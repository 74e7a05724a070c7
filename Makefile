# `make help` lists what there is. Everything runs in .venv, which the first target called makes.
PYTHON ?= python3
PORT ?= 8000
MODEL ?=
ARGS ?=

# The CPU engine: no GPU is looked for, threads are not bound, and nothing is sent anywhere.
export CUDA_VISIBLE_DEVICES :=
export VLLM_CPU_OMP_THREADS_BIND ?= nobind
export VLLM_CPU_KVCACHE_SPACE ?= 1
export VLLM_NO_USAGE_STATS := 1
export HF_HUB_OFFLINE := 1
# vLLM compiles its random sampler even with --enforce-eager, which asks for a C++ compiler and takes
# a minute of each start.
export TORCH_COMPILE_DISABLE ?= 1
# Some machines ask Python to keep no bytecode. Every process would then compile all that it imports
# anew: an engine takes 17 seconds to start instead of 10.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup setup-ascend setup-next setup-ascend-next demo serve train test \
	test-next test-all unit fuzz lowering lint docs wheel format bench requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: ## make .venv, if it is not there or out of date
	@PYTHON=$(PYTHON) scripts/bootstrap.sh

setup-ascend: ## make .venv-ascend: vllm-ascend too, without an NPU, for tests/emulation
	@PYTHON=$(PYTHON) scripts/bootstrap.sh ascend

setup-next: ## make .venv-next: .venv with the next vLLM that we support, 0.30.0
	@PYTHON=$(PYTHON) scripts/bootstrap.sh next

setup-ascend-next: ## make .venv-ascend-next: the same with vllm-ascend 0.30.0rc2
	@PYTHON=$(PYTHON) scripts/bootstrap.sh ascend-next

demo: setup ## the main job: serve a small Qwen3-Next through our worker, and check what it says
	.venv/bin/python examples/demo.py $(ARGS)

serve: setup ## serve MODEL (default: a small trained one) on 127.0.0.1:PORT through our worker
	.venv/bin/python examples/serve.py $(MODEL) --port $(PORT) $(ARGS)

# tests/emulation takes vllm-ascend, and the others vLLM's CPU platform, which vllm-ascend replaces.
# Two tests at a time, each on one core: give another number with ARGS='-n 8', none with ARGS='-n 0'.
SIDE_BY_SIDE = -n 2 --dist worksteal
PYTEST = OMP_NUM_THREADS=1 .venv/bin/pytest $(SIDE_BY_SIDE) --ignore=tests/emulation
PYTEST_ASCEND = OMP_NUM_THREADS=1 .venv-ascend/bin/pytest $(SIDE_BY_SIDE)
# The next stack, with vLLM 0.30.0: `make test` runs a part of its tests.
PYTEST_NEXT = OMP_NUM_THREADS=1 .venv-next/bin/pytest $(SIDE_BY_SIDE) --ignore=tests/emulation
PYTEST_ASCEND_NEXT = OMP_NUM_THREADS=1 .venv-ascend-next/bin/pytest $(SIDE_BY_SIDE)
NEXT = tests/attention tests/fla tests/runner tests/engine/test_parity.py
ASCEND_NEXT = $(addprefix tests/emulation/test_,builder.py chunked.py layer.py schemas.py start_up.py)

test: setup setup-ascend setup-next setup-ascend-next ## the tests, but for the longest
	$(PYTEST) -m "not slow" $(ARGS)
	$(PYTEST_ASCEND) tests/emulation -m "not slow" $(ARGS)
	$(PYTEST_NEXT) $(NEXT) -m "not slow" $(ARGS)
	$(PYTEST_ASCEND_NEXT) $(ASCEND_NEXT) -m "not slow" $(ARGS)

test-next: setup-next setup-ascend-next ## the next stack's tests, but for the longest
	$(PYTEST_NEXT) -m "not slow" $(ARGS)
	$(PYTEST_ASCEND_NEXT) tests/emulation -m "not slow" $(ARGS)

test-all: setup setup-ascend setup-next setup-ascend-next ## all tests, of both stacks
	$(PYTEST) $(ARGS)
	$(PYTEST_ASCEND) tests/emulation $(ARGS)
	$(PYTEST_NEXT) $(ARGS)
	$(PYTEST_ASCEND_NEXT) tests/emulation $(ARGS)

unit: setup setup-ascend ## the tests that start no engine
	$(PYTEST) -m "not engine" $(ARGS)
	$(PYTEST_ASCEND) tests/emulation -m "not engine" $(ARGS)

# By rules that hypothesis shrinks, then in volume: as many steps as ARGS='--steps 200000' says.
fuzz: setup ## random sequences of steps against a slow model: a million of them, a quarter of an hour
	VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1 FUZZ_EXAMPLES=2000 \
		.venv/bin/pytest -q tests/fuzz/test_machine.py
	VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1 .venv/bin/python tests/fuzz $(ARGS)

lowering: ## lower our Triton kernels for Ascend, without an NPU, with what is in .venv-lowering
	@PYTHON=$(PYTHON) scripts/bootstrap.sh lowering
	.venv-lowering/bin/python tests/lowering/check.py

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	MYPYPATH=.venv/typing:examples .venv/bin/mypy

docs: ## the documentation as a static site in .cache/site/html, all its links checked
	@PYTHON=$(PYTHON) scripts/bootstrap.sh docs
	rm -rf .cache/site && mkdir -p .cache/site/source
	git ls-files -z '*.md' 'docs/*' 'benchmarks/results/*' | xargs -0 cp --parents -t .cache/site/source
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

wheel: setup ## a wheel in dist/
	$(firstword $(UV)) build --quiet --wheel --no-build-isolation --python .venv/bin/python --out-dir dist

format: setup ## let ruff put the sources in order
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

train: setup ## train the demo's model anew, from scratch (10 minutes), into .cache/recall_model
	.venv/bin/python examples/train_recall.py .cache/recall_model $(ARGS)

bench: setup setup-ascend ## the benchmarks that need no GPU, each measuring upstream and us in one run
	@set -e; for each in benchmarks/bench_*.py; do \
		case $$each in \
		*_cuda_* | *_table_fill*) continue ;; \
		*_ascend_*) venv=.venv-ascend ;; \
		*) venv=.venv ;; esac; \
		echo "== $$each"; $$venv/bin/python $$each; done

# Pins that still fit are kept; delete a line from the .txt to let that package move.
UV = $(if $(wildcard .cache/uv/bin/uv),.cache/uv/bin/uv,uv) pip compile --quiet --no-header \
	--no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28
requirements: setup ## resolve requirements/*.in into the pinned *.txt
	$(UV) --overrides requirements/overrides.txt requirements/cpu.in -o requirements/cpu.txt
	$(UV) --overrides requirements/overrides_next.txt requirements/cpu_next.in \
		-o requirements/cpu_next.txt
	$(UV) requirements/dev.in -o requirements/dev.txt
	$(UV) requirements/ascend.in -o requirements/ascend.txt
	$(UV) --no-emit-package triton requirements/lowering.in -o requirements/lowering.txt
	$(UV) requirements/docs.in -o requirements/docs.txt

clean: ## remove all that was made here
	rm -rf .venv .venv-ascend .venv-next .venv-ascend-next .venv-lowering .venv-docs .cache build \
		dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
