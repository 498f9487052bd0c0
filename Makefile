# Set-up and the everyday commands. Each is thin: the plain command, which works too once .venv is activated.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing here calls home unless you ask for it.
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True

.PHONY: model up why test serve bento check

# The exact versions that are known to work together; made again only when what it hangs on changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
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
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

serve: .venv/installed
	bentoml serve

bento: .venv/installed
	python -m serving.pack

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy
