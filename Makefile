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

# What changes how numbers are rounded, on any x86-64 processor: instructions without
# AVX-512, kernels without oneDNN, one thread and many. A "+" joins the settings of a run.
THREADS_1 = TF_NUM_INTRAOP_THREADS=1+TF_NUM_INTEROP_THREADS=1+OMP_NUM_THREADS=1+OPENBLAS_NUM_THREADS=1
THREADS_8 = TF_NUM_INTRAOP_THREADS=8+TF_NUM_INTEROP_THREADS=8+OMP_NUM_THREADS=8+OPENBLAS_NUM_THREADS=8
AVX2 = ONEDNN_MAX_CPU_ISA=AVX2+XLA_FLAGS=--xla_cpu_max_isa=AVX2
PORTABLE = $(AVX2)+$(THREADS_1) TF_ENABLE_ONEDNN_OPTS=0+$(THREADS_8)

.PHONY: run test test-portable lint install clean

run: install
	$(BIN)/python scripts/train.py --workdir=$(WORKDIR)

test: install lint
	$(BIN)/python -m pytest -m "$(MARK)" --durations=10 \
		-n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests that depend on rounding, once for each set of settings.
test-portable: install
	for settings in $(PORTABLE); do \
		echo "$$settings" | tr + ' '; \
		env $$(echo "$$settings" | tr + ' ') $(BIN)/python -m pytest -q \
			-m "portable and not slow" -n $(WORKERS) --dist loadfile || exit 1; \
	done

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
