# Set-up and the everyday commands. Each is thin: the plain command, which works too once .venv is activated.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing here calls home unless you ask for it.
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True

.PHONY: model up why test serve bento check lock sbom

PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check install

# The exact versions that are known to work together, each file checked against its hash; torch is the exception, for
# one version of it exists in several builds. Made again only when what it depends on changes, and from the start where
# an earlier attempt ended half-way.
.venv/installed: pyproject.toml requirements.lock requirements-dev.lock requirements-build.lock constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@if [ -e .venv/unfinished ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --clear .venv || { \
	    echo "error: $(PYTHON) -m venv failed, see above; on Debian and Ubuntu: apt install python3-venv. Then run make again" >&2; \
	    exit 1; }; fi
	@touch .venv/unfinished
	$(PIP) --require-hashes --no-deps -r requirements-build.lock
	$(PIP) --require-hashes --no-deps --no-build-isolation -r requirements.lock -r requirements-dev.lock
	$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --no-deps --no-build-isolation -e .
	@rm .venv/unfinished
	touch $@

model: .venv/installed
	python -m pipeline.params
	python -m pipeline.dvc_repo
	dvc repro
	@python -m pipeline.summary

up: .venv/installed
	python -m flows.up

why: .venv/installed
	@python -m flows.reasons

# Two at a time, with a thread each: most tests wait for a server or a stage.
test: .venv/installed
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder

serve: .venv/installed
	bentoml serve

bento: .venv/installed
	python -m serving.pack

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# Adds what pyproject.toml asks for and constraints.txt has not, by hash; `make lock UPGRADE=--upgrade`: the newest of all.
lock:
	python -m deploy.lock $(UPGRADE)

# What the environment is made of, as CycloneDX.
sbom: .venv/installed
	@python -m deploy.sbom
