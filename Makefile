# Needs Python 3.11 or newer and make, nothing else: every target makes what it needs. Start with: make demo

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

VERSIONS := 3.11 3.12 3.13 3.14

# A PYTHON of the caller's own choice is taken or refused; the default may give way to a newer one beside it.
ifeq ($(origin PYTHON),file)
CANDIDATES := $(PYTHON) $(addprefix python,$(VERSIONS))
else
CANDIDATES := $(PYTHON)
endif

IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip --disable-pip-version-check --no-input

# The caller's own Python set-up stays out of the virtual environment.
unexport PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one virtual environment at a time would trip over each other.
.NOTPARALLEL:
.PHONY: help demo test test-all test-newest lint format types docs docs-site bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo 'Options for what is run: make test ARGS="-k sse -x". Another interpreter: make test PYTHON=python3.12'

demo: $(VENV)/.installed ## run the relay against a built-in provider with four clients (about 15 s)
	@$(VENV)/bin/flowserver demo $(ARGS)

# Twice as many workers as cores: half of the tests' time is spent waiting.
WORKERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))

test: $(VENV)/.installed-test ## run every test, several at a time (WORKERS=0: one)
	@$(IN_VENV) -m pytest --numprocesses=$(WORKERS) $(ARGS)

# Without the relays that tests start as processes: some tests bound how long those may take.
.PHONY: coverage
coverage: $(VENV)/.installed-test ## run every test, then list the lines that none of them runs
	@$(IN_VENV) -m pytest --numprocesses=$(WORKERS) --cov=flowserver $(ARGS)

test-all: ## run every test on each python3.11 to python3.14 that is on PATH
	@found=; failed=; \
	for version in $(VERSIONS); do \
	    "python$$version" -c '' >/dev/null 2>&1 || continue; \
	    found="$$found $$version"; \
	    echo "== Python $$version"; \
	    $(MAKE) --no-print-directory test PYTHON="python$$version" VENV=".venv-$$version" \
	        || failed="$$failed $$version"; \
	done; \
	if [ -z "$$found" ]; then echo "None of Python $(VERSIONS) is on PATH." >&2; exit 1; fi; \
	if [ -n "$$failed" ]; then echo "Failed on Python$$failed (run on:$$found)." >&2; exit 1; fi; \
	echo "Passed on Python$$found."

# pyproject.toml caps these at what is tested. This says early what their next versions will break.
CAPPED := h11 h2 hpack hyperframe redis
NEWEST := .venv-newest

test-newest: $(VENV)/.installed-test ## run every test with the newest h11, h2, hpack and redis, whatever pyproject.toml allows
	@$(MAKE) --no-print-directory VENV=$(NEWEST) $(NEWEST)/.installed-test
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --upgrade --no-deps $(CAPPED)
	@for place in $(VENV) $(NEWEST); do \
	    "$$place"/bin/python -c 'import sys; from importlib.metadata import version; \
	        print(*(f"{name} {version(name)}" for name in sys.argv[1:]), sep=", ")' $(CAPPED) >"$$place/.capped"; \
	done
	@if cmp -s $(VENV)/.capped $(NEWEST)/.capped; then echo "These are the newest: $$(cat $(VENV)/.capped)."; else \
	    echo "Testing with $$(cat $(NEWEST)/.capped)"; \
	    $(NEWEST)/bin/python -m pytest --numprocesses=$(WORKERS) $(ARGS); \
	fi

lint: $(VENV)/.installed-test ## check style and format (ruff)
	@$(IN_VENV) -m ruff check .
	@$(IN_VENV) -m ruff format --check .

format: $(VENV)/.installed-test ## put style and format right (ruff)
	@$(IN_VENV) -m ruff check --fix .
	@$(IN_VENV) -m ruff format .

# bench/ is checked too, so what it imports has to be there.
types: $(VENV)/.installed-test $(VENV)/.installed-bench ## check types (mypy)
	@$(IN_VENV) -m mypy

docs: $(VENV)/.installed-test ## regenerate what docs/ has from the code, then build the site
	@UPDATE_DOCS=1 $(IN_VENV) -m pytest tests/cli/test_reference.py tests/cli/test_mistakes.py
	@$(MAKE) --no-print-directory docs-site

SITE := .venv-docs

# Not this package itself: what it has to say is in docs/.
docs-site: $(SITE)/.builds-site ## build the site into build/site; a broken link or anchor fails (SERVE=1: serve it)
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs $(if $(SERVE),serve,build --strict)

$(SITE)/.builds-site: pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(SITE) $(SITE)/.made
	@echo "Installing what builds the site into $(SITE)"
	@$(SITE)/bin/python -c 'import tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	    >$(SITE)/requirements.txt
	@$(SITE)/bin/python -m pip --disable-pip-version-check --no-input install --quiet -r $(SITE)/requirements.txt
	@touch $@

bench: $(VENV)/.installed-bench ## measure the relay, beside nginx where it is installed
	@$(IN_VENV) -m bench $(ARGS)

clean: ## remove virtual environments, caches and build output
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find flowserver tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the compiled build: see CONTRIBUTING.md; it needs a C compiler and Python's headers ---

COMPILED := .venv-compiled
SOURCES := $(shell find flowserver -name '*.py' -o -name '*.lua') setup.py pyproject.toml tools/build_backend.py

.PHONY: compiled test-compiled wheel

compiled: $(COMPILED)/.installed-test ## compile the package into .venv-compiled (about a minute on two cores)

# Tests import the package that is installed there, not the one in this directory, and so does what they start. Python's
# debug allocator fills what is freed: compiled code that still uses it fails.
test-compiled: $(COMPILED)/.installed-test ## run every test on the compiled package
	@mkdir -p $(COMPILED)/beside && ln -sfn ../../bench $(COMPILED)/beside/bench
	@PYTHONMALLOC=debug PYTHONSAFEPATH=1 PYTHONPATH='$(abspath $(COMPILED)/beside)' \
	    $(COMPILED)/bin/python -m pytest --import-mode=append --numprocesses=$(WORKERS) $(ARGS)

wheel: $(VENV)/.made ## build a compiled wheel for this machine and Python into dist/
	@FLOWSERVER_COMPILE=1 $(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

$(COMPILED)/.installed-test: $(SOURCES)
	@$(MAKE) --no-print-directory VENV=$(COMPILED) $(COMPILED)/.made
	@echo "Compiling flowserver into $(COMPILED)"
	@FLOWSERVER_COMPILE=1 $(COMPILED)/bin/python -m pip --disable-pip-version-check --no-input \
	    install --quiet '.[test]'
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "Installing flowserver into $(VENV)"
	@$(PIP) install --quiet --editable .
	@touch $@

# One stamp for each extra of pyproject.toml: installed once, and again when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.made
	@echo "Installing flowserver[$*] into $(VENV)"
	@$(PIP) install --quiet --editable '.[$*]'
	@touch $@

# A virtual environment whose interpreter has gone (an upgrade of the system's Python) is made anew.
$(shell [ -x '$(IN_VENV)' ] || rm -f '$(VENV)/.made')

# One that works is taken as it is, however it was made; one whose making broke off is not.
$(VENV)/.made:
	@if $(PIP) --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	chosen=; bare=; \
	for candidate in $(CANDIDATES); do \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	    bare="$$bare $$candidate"; \
	done; \
	if [ -z "$$chosen" ]; then \
	    echo "flowserver needs Python 3.11 or newer, with venv and pip. Tried: $(CANDIDATES)" >&2; \
	    [ -z "$$bare" ] || echo "New enough but without venv or pip:$$bare (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	    echo "Install it, or say where it is: make PYTHON=/path/to/python3.12 TARGET" >&2; \
	    exit 1; \
	fi; \
	if [ -e '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi; \
	echo "Making $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv '$(VENV)' && touch $@
