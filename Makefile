# Set-up, and the commands of `fresh` for those who have not activated .venv.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# No telemetry, unless you turn it on.
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True

.PHONY: model up why test serve bento check lock sbom

PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check install

# Installs the locked versions, each file checked against its hash; except torch, whose version exists in several builds.
# Runs again when one of its inputs changes, and from scratch if an earlier attempt did not finish.
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
	@fresh train

up: .venv/installed
	@fresh up

why: .venv/installed
	@fresh why

# Three test workers on two cores, one OpenMP thread each: most tests wait for a server or a stage.
test: .venv/installed
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder

serve: .venv/installed
	@fresh serve

bento: .venv/installed
	@fresh pack

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# Locks what pyproject.toml requires; `make lock UPGRADE=--upgrade` moves every version to the newest.
lock:
	python -m deploy.lock $(UPGRADE)

# Prints an SBOM of the environment (CycloneDX).
sbom: .venv/installed
	@python -m deploy.sbom
