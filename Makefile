# `make` alone prints what there is.
.DEFAULT_GOAL := help
PY := .venv/bin/python
# pip may be given a folder of wheels (PIP_FIND_LINKS); uv takes the same one.
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
# torch: the local wheel where there is one, else what uv chooses for this machine (the CPU build where
# there is no GPU), else what the index has.
ifeq ($(UV_FIND_LINKS),)
TORCH_ARGS ?= --torch-backend auto
endif
# compiled once here: every task is a process of its own, and imports Airflow or torch
UV_INSTALL := .tools/bin/uv pip install -q --python .venv/bin/python --compile-bytecode

.venv/.stamp: requirements.lock pyproject.toml
	@echo "Installing into .venv from requirements.lock (about 1.5 GB, half a minute to a few minutes) ..."
	python3 -m venv .tools && .tools/bin/pip install -q uv==0.13.9
	.tools/bin/uv venv -q --clear --python python3 .venv
	$(UV_INSTALL) $(TORCH_ARGS) -r requirements.lock || $(UV_INSTALL) -r requirements.lock
	$(UV_INSTALL) --no-deps -e .
	@touch $@

.PHONY: help install demo demo-clean airflow airflow-down test soak test-long check bench bench-catalog bench-large bench-year lock format

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.stamp ## make .venv from requirements.lock

demo: .venv/.stamp ## three real nights inside Airflow, then what was removed and why (1 to 5 minutes)
	$(PY) examples/demo.py run

demo-clean: ## remove everything the demo made
	@if [ -x $(PY) ]; then $(PY) examples/demo.py clean; else rm -rf .demo; fi

airflow: .venv/.stamp ## Airflow with scheduler and UI on the demo's data; prints URL and login
	$(PY) examples/demo.py airflow

airflow-down: .venv/.stamp ## stop what `make airflow` started
	$(PY) examples/demo.py airflow-down

check: .venv/.stamp ## lint, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

test: check ## checks, unit, integration, dag.test() and one module under the real scheduler (under 25 minutes)
	$(PY) -m pytest tests/unit tests/docs tests/integration tests/dags -m "not long and not soak"
	$(PY) -m pytest tests/scheduler -m "not long and not soak"

# Whoever changes turns, commits or the leader runs it; `make soak SEED=...` repeats one.
SEED := $(shell date +%s)
soak: .venv/.stamp ## more of the same promises: deaths at every write, stories by chance, properties twentyfold (an hour)
	SSCD_OPS_SOAK_SEED=$(SEED) $(PY) -m pytest tests -m "(soak or hypothesis) and not long" \
	  --hypothesis-profile=soak --hypothesis-seed=$(SEED) --timeout=3600

test-long: .venv/.stamp ## a week under the scheduler, and a nightly run beside ten nights of backfill
	$(PY) -m pytest tests -m long -s

bench: .venv/.stamp ## speed as ratios against a plain way in the same run (under 25 minutes)
	$(PY) -m benchmarks

bench-catalog: .venv/.stamp ## 400 batches and 20,000,000 rows in Postgres (30 GB free disk, apart from the rest)
	$(PY) -m benchmarks.catalog --write

bench-large: .venv/.stamp ## what nights of five and twenty million need (hours; goes on where it was cut)
	$(PY) -m benchmarks.large --write

bench-year: .venv/.stamp ## a night after 1, 250, 500 and 1,000 earlier ones, step by step, and after `index compact` (minutes)
	$(PY) -m benchmarks.year

lock: ## write requirements.lock anew from requirements.in (with a folder of wheels that has torch's CPU build)
	sed -i 's/^torch==\([0-9.]*\)$$/torch==\1+cpu/' requirements.lock
	.tools/bin/uv pip compile -q requirements.in -o requirements.lock --no-emit-find-links --no-header
	sed -i 's/^torch==\(.*\)+cpu/torch==\1/' requirements.lock
	@! grep -n nvidia requirements.lock || (echo "the lock holds CUDA packages: compile it with torch's CPU build at hand" && exit 1)

format: .venv/.stamp ## format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
