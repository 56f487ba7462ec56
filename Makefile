# llmlab from a bare clone. `make` alone lists what there is.
#
# Everything goes into .venv and the user's cache; nothing is installed outside.
# Each step leaves a stamp, so that the second time takes a second.
#
# The engines. llama-cpp-python is taken as a wheel where your package index has
# one; then models start natively at once, and `make setup` and `make lab` compile
# nothing. llama-server, which serves many learners and runs in containers, is a
# compiled program: `make engine` (part of demo, test, bench, and of setup where
# there is no wheel) uses one that you have (LLMLAB_LLAMA_SERVER, or on PATH) or
# compiles llama.cpp once per machine, about 5 minutes on 2 cores. The Python
# engine then uses the libraries of that same build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NOTEBOOK := notebooks/01-first-model.ipynb
PIP := $(BIN)/python -m pip --disable-pip-version-check
LLAMA := llama-cpp-python==0.3.36
FIND_BUILD := $(BIN)/python -c "import llmlab.builds as b; b.find_build()"
# Jupyter refuses to run as root (a container, a fresh cloud machine) without it.
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help setup engine lab demo notebooks docs test test-slow test-images cluster-test check format bench lock clean

help: ## List these targets
	@echo "make TARGET, with TARGET one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/package $(STAMPS)/llama ## Make .venv, install everything, compile llama.cpp if needed
	@if $(FIND_BUILD) 2>/dev/null; then echo "Ready."; \
	elif [ -e $(STAMPS)/wheel ]; then \
	  echo "Ready, with llama-cpp-python from a wheel: models start natively, nothing was compiled."; \
	  echo "For llama-server and for containers: make engine (compiles about 5 minutes, once)"; \
	else $(MAKE) --no-print-directory engine; fi

engine: $(STAMPS)/package ## Compile and verify llama.cpp, or verify the one that is there
	@$(FIND_BUILD) 2>/dev/null || $(BIN)/llmlab build

lab: setup ## Open JupyterLab on the first notebook
	$(BIN)/jupyter lab $(AS_ROOT) --ServerApp.root_dir=$(dir $(NOTEBOOK)) \
	  --LabApp.default_url=/lab/tree/$(notdir $(NOTEBOOK))

demo: setup engine ## Run the first notebook without a browser; leaves build/01-first-model.html
	@mkdir -p build
	$(BIN)/python tools/demo.py $(NOTEBOOK) --html build/01-first-model.html

notebooks: setup engine ## Run all notebooks in each mode; MODE="native container binder", NOTEBOOKS="01 02"
	$(BIN)/python -m tools.notebooks --mode "$(MODE)" $(NOTEBOOKS)

# Two files at a time, then by themselves those that measure the machine (5: none was chosen).
test: setup engine ## Run the tests; PYTEST="-k name" passes options on
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone and not slow and not cluster" $(PYTEST); first=$$?; \
	$(BIN)/python -m pytest -m "alone and not slow and not cluster" $(PYTEST); \
	case $$first$$? in 00|05|50) ;; *) exit 1 ;; esac

test-slow: setup engine ## Run the tests that `make test` leaves out because they take long
	$(BIN)/python -m pytest -m "slow and not cluster" $(PYTEST)

test-images: setup engine ## Run the tests of Ollama and vLLM on their real images, which the container engine fetches
	$(BIN)/python -m tests.stand_ins
	LLMLAB_REAL_IMAGES=1 LLMLAB_REQUIRE="real images" $(BIN)/python -m pytest tests/test_engines_ollama.py tests/test_engines_vllm.py $(PYTEST)

cluster-test: setup engine ## Make three container engines, run lesson 08 and the tests of nodes and clusters (Linux, root)
	$(BIN)/python -m pytest -m cluster tests/cluster $(PYTEST)

docs: $(STAMPS)/package ## Build the documentation's site in build/docs, and check its links without a network
	@rm -rf build/docs
	$(BIN)/python -m sphinx -n -W --keep-going -q -E -d build/doctrees docs build/docs
	$(BIN)/python tools/check_site.py build/docs

check: $(STAMPS)/package ## Lint, formatting, types, import layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMPS)/package ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup engine ## Run the benchmarks; BENCH="imports streaming" names some
	$(BIN)/python -m bench $(BENCH)

# Hashes and versions only. uv does not read pip's configuration, so the index
# set there is passed on, and nothing of it may end up in the file.
lock: ## Pin the dependencies anew in requirements.lock
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet uv
	@index=$$($(PYTHON) -m pip config get global.index-url 2>/dev/null); \
	UV_DEFAULT_INDEX="$${index:-$$UV_DEFAULT_INDEX}"; \
	if [ -n "$$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi; \
	build/uv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.10 \
	  --extra lab --extra build --extra classroom --extra llama --group dev --no-emit-package llama-cpp-python \
	  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --upgrade --output-file requirements.lock
	@if grep -nE '://|^-|^[^#]*@ ' requirements.lock; then echo "requirements.lock names an address" >&2; exit 1; fi
	@$(MAKE) --no-print-directory $(STAMPS)/package && $(BIN)/python -m tools.binder_lock

clean: ## Remove .venv and what was built here; the compiled engine stays in the cache
	rm -rf $(VENV) build dist docs/_tutorials .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian and Ubuntu keep the part of venv that brings pip in a package of its own;
# where it is missing, the system's pip puts a pip into the environment.
$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "llmlab needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import venv, pip' 2>/dev/null; then \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip install --quiet --target \
	    "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip; \
	else echo "Python's venv is missing: sudo apt-get install python3-venv" >&2; exit 1; fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/deps: requirements.lock $(STAMPS)/venv
	@echo "Installing the packages of requirements.lock (about a minute)"
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/deps
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# A wheel if an index has one. Else the source package without its libraries: they
# come from `llmlab build`, and llmlab points it to them. A llama-server from
# elsewhere has no such libraries; then the Python engine is left out.
$(STAMPS)/llama: requirements-llama.lock $(STAMPS)/package
	@rm -f $(STAMPS)/wheel
	@if $(PIP) install --quiet --no-deps --only-binary llama-cpp-python "$(LLAMA)" >/dev/null 2>&1; then \
	  touch $(STAMPS)/wheel $@; exit; \
	fi; \
	$(MAKE) --no-print-directory engine || exit; \
	if $(BIN)/python -c "import sys, llmlab.builds as b; sys.exit(not b.find_build().library_dir)"; then \
	  CMAKE_ARGS=-DLLAMA_BUILD=OFF $(PIP) install --quiet --no-deps --no-build-isolation \
	    --no-binary llama-cpp-python --require-hashes -r requirements-llama.lock && touch $@; \
	else \
	  echo "llama-server is one of your own, so llama-cpp-python is left out. For both:"; \
	  echo "unset LLMLAB_LLAMA_SERVER; $(BIN)/llmlab build --force; make setup"; \
	fi
