# Two commands do everything on a machine with Python 3.11 to 3.13 and a network:
#   make run    installs into .venv, trains the default preset on the embedded digits
#   make test   installs into .venv, lints, runs the tests (with the slow ones: MARK=)

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits_dcgan_ttur
MARK ?= not slow
# TensorFlow leaves most of a second core idle in tests as small as these.
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint install clean

run: install
	$(BIN)/python scripts/train.py --workdir=$(WORKDIR)

test: install lint
	$(BIN)/python -m pytest -m "$(MARK)" --durations=10 \
		-n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed

# Each file is what requirements.txt says, or nothing is installed. One package comes as
# source only: it is built by the setuptools that is pinned, so that comes first.
# The project itself is installed editable, so that sources are used as they are.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.txt | $(PIP) --require-hashes -r /dev/stdin
	$(PIP) --require-hashes --no-build-isolation -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
