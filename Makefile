# make book | test | bench | mutants | clean. The first one that is run makes .venv from requirements.lock.
.DELETE_ON_ERROR:
.SHELLFLAGS := -eu -c
.PHONY: book test check site bench mutants setup clean

# Name another interpreter with: make PYTHON=/path/to/python3.12 test
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread each, and no further processes: two test processes share two cores.
ONE_THREAD := OMP_NUM_THREADS=1 L3D_WORKERS=1

book: $(READY)
	$(BIN)/l3d run --all --preset quick
	$(BIN)/l3d book

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ONE_THREAD) $(BIN)/pytest -q -rs -n 2 --dist worksteal --ignore=tests/test_site.py
	$(ONE_THREAD) $(BIN)/pytest -q -rs -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks
	$(MAKE) --no-print-directory -j 2 check site
	$(ONE_THREAD) $(BIN)/pytest -q -rs -n 2 tests/test_site.py

# Side by side, since building the book keeps one core busy and the check ends on one.
check: $(READY)
	$(BIN)/l3d check
site: $(READY)
	$(BIN)/l3d book

# Sections alone: make bench ONLY="toys paths"; a trial on small stand-ins: make bench QUICK=1
ONLY ?=
QUICK ?=
bench: $(READY)
	$(BIN)/python tests/bench.py $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

mutants: $(READY)
	$(ONE_THREAD) $(BIN)/python tests/mutants.py

setup: $(READY)

# Prints the version of a Python and succeeds if it is one the lock is made for.
SUPPORTED := import platform, sys; print(platform.python_version()); sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

$(READY): requirements.lock pyproject.toml
	@if [ -x $(BIN)/python ]; then python=$(BIN)/python; \
	elif [ -n "$(PYTHON)" ]; then python="$(PYTHON)"; \
	else python=""; for name in python3.11 python3.12 python3.13 python3; do \
		if $$name -c '$(SUPPORTED)' >/dev/null 2>&1; then python=$$name; break; fi; done; \
		[ -n "$$python" ] || python=python3; fi; \
	got=$$("$$python" -c '$(SUPPORTED)' 2>/dev/null) || { \
		echo "make: $$python is $${got:+Python }$${got:-no Python that starts}; expected Python 3.11, 3.12 or 3.13." >&2; \
		if [ "$$python" = "$(BIN)/python" ]; then echo "Remove $(VENV) and run make again." >&2; \
		else echo "Install one of them, or name it: make PYTHON=/path/to/python3.11" >&2; fi; exit 1; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make: $$python cannot make $(VENV); expected the venv module. On Debian: apt-get install python3-venv" >&2; \
		exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf _build book/generated book/_static/mathjax book/_static/explorer artifacts/runs .pytest_cache .ruff_cache
