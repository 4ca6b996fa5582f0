# The environment is .venv/ in this checkout; every target makes what it needs.
PY       ?= $(shell command -v python3.11 || command -v python3)
PIP       = $(PY) -m pip --python .venv/bin/python install --quiet --disable-pip-version-check -c constraints.txt
RUN       = .venv/bin/python
PHOTOS   ?=
KILLS    ?= 250
JOBS     ?= 0
PROOFS   ?= tests/durability tests/model tests/store tests/e2e/test_backup.py
LOOKALIKE_SHARED ?= ../shared
export LOOKALIKE_SHARED PHOTOS

.PHONY: help demo test check gen lint types drift prove bench clean

help:            ## say what there is
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: .venv/.server   ## a real server, a gallery, and searches in it (PHOTOS=DIR: your own pictures)
	@.venv/bin/lookalike demo $${PHOTOS:+--photos "$$PHOTOS"}

test: .venv/.dev      ## every test but the long proofs, under 10 minutes
	$(RUN) -m pytest -q -n 2 --dist loadscope

check: .venv/.dev lint types drift   ## format, lint, types, rooms, stubs, API compatibility
	$(RUN) -m pytest -q tests/layout

lint: .venv/.dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

types: .venv/.dev
	.venv/bin/mypy

gen: .gen/.ok         ## generate the stubs from protos/ anew
	scripts/generate-stubs protos

drift: .venv/.dev .gen/.ok
	scripts/check-protos
	$(RUN) scripts/generate-docs --check
	$(RUN) scripts/generate-sbom --check
	$(RUN) scripts/audit constraints.txt

prove: .venv/.dev     ## the long proofs of durability (KILLS=n JOBS=n; PROOFS=tests: all there are)
	PROVE_KILLS=$(KILLS) $(RUN) -m pytest -v -rA -o faulthandler_timeout=0 -m prove \
		-n $(JOBS) --dist worksteal $(PROOFS)

bench: .venv/.dev     ## quality of the embedder, speed of the way in, worth of the answers
	$(RUN) bench/quality.py --photos $(LOOKALIKE_SHARED)/data/photos --copies --quick
	$(RUN) bench/ingest.py --photos $(LOOKALIKE_SHARED)/data/photos
	$(RUN) bench/results.py --photos $(LOOKALIKE_SHARED)/data/photos --quick

clean:           ## remove the environments and what tools left behind
	rm -rf .venv .gen .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PY) scripts/check-python
	$(PY) -m venv --without-pip .venv

.venv/.server: .venv/bin/python pyproject.toml constraints.txt
	@echo "setting up .venv (about a minute) ..."
	$(PIP) -e '.[server]'
	@touch $@

# torch first and pinned: a looser requirement would take a build for GPUs, gigabytes of it.
.venv/.dev: .venv/.server
	$(PIP) torch==2.13.0
	$(PIP) -e '.[server,web,clip,testing,dev]'
	@$(PIP) 'hnswlib>=0.8' || echo "hnswlib needs g++ and python3-dev to build; going on without it"
	@touch $@

.gen/.ok: scripts/requirements-gen.txt
	$(PY) -m venv --without-pip .gen
	$(PY) -m pip --python .gen/bin/python install --quiet --disable-pip-version-check -r scripts/requirements-gen.txt
	@touch $@
