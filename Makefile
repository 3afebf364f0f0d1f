# make demo   install Wordbrush into .venv and paint the first pictures into demo/
# make test   install the test tools as well, then check everything; ends with pytest's closing line
# make lint   only the checks that run no test
# make clean  remove what the commands above wrote, except .venv;  make distclean removes .venv too
#
# Another interpreter: make demo PYTHON=python3.12     Other pip options: the usual PIP_... variables are honoured.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPTS := examples/demo.txt
PYTEST_FLAGS ?=
# Applications pin an older major version of the openai client; the tests run both against the server.
OLDER_CLIENT := $(VENV)/clients/openai-1

# pip does not need to say that it could be newer.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint install install-dev clean distclean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	@$(BIN)/wordbrush generate --prompts $(PROMPTS) --seed 7 --output demo
	@echo "The pictures are in demo/, and a sheet with all of them."

# One thread a worker: the tests' tensors are tiny, and workers that compete for cores only slow each other down.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# The stamps make a second call quick, and are written last, so that an interrupted installation starts over.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing Wordbrush into $(VENV); PyTorch is large, so the first time takes a few minutes."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing Wordbrush and its test tools into $(VENV); the first time takes a few minutes."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(OLDER_CLIENT) openai==1.109.1 distro==1.9.0
	@command -v chromium >/dev/null || $(BIN)/playwright install chromium || \
	  echo "There is no chromium here, so the studio's tests will be skipped; Debian, Ubuntu: apt-get install chromium" >&2
	@touch $(VENV)/.installed $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Wordbrush needs Python 3.11 or newer, and $(PYTHON) is older; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks its venv module; install it (Debian, Ubuntu: apt-get install python3-venv) and run make again." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
