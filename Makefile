# make demo    the main job on a fresh machine: two phantom centres, real server, real clients, report
#              (SECURE=1: the server sees only the sum of the centres' updates)
# make test    lint, types, import contracts and tests, two at a time (JOBS=4 for more)
# make coverage  which lines and branches the tests run
# make deploy-test   what takes minutes: stock Flower, containers, the bundle (14 GB for a while), Slurm, earlier state
# make install only the virtual environment
# make dist    wheel and sdist, in dist/
# make bundle  one archive that installs a client without a network (SIDE=server, PLATFORM=linux-aarch64, CUDA=cpu INDEX=URL)

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,\
	$(shell $(name) -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $(name))))
SEED ?= 0
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check coverage install lock dist bundle deploy-test clean

demo: $(VENV)/.complete
	@exec $(BIN)/stic-server demo --seed $(SEED) $(if $(FULL),--full) $(if $(SECURE),--secure-aggregation)

# The type checker takes a minute of one core; it works beside the tests, and what it finds is shown after them.
test: $(VENV)/.complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@types=$$(mktemp); { $(BIN)/basedpyright --level error && $(BIN)/lint-imports; } >$$types 2>&1 & checking=$$!; \
	trap "kill $$checking 2>/dev/null; rm -f $$types; exit 130" INT TERM; \
	$(BIN)/python -m pytest -n $(JOBS); tested=$$?; \
	wait $$checking; checked=$$?; \
	if test $$checked -eq 0; then echo "types and import contracts: no error"; else cat $$types; fi; rm -f $$types; \
	test $$tested -eq 0 && test $$checked -eq 0

coverage: $(VENV)/.complete
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term

deploy-test: $(VENV)/.complete
	$(BIN)/python -m pytest -m deploy tests/deploy

check: $(VENV)/.complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports

install: $(VENV)/.complete

$(VENV)/.complete: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed; name one with make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Installing into $(VENV) (about 6.5 GB with CUDA libraries; some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The lock is for every platform and Python that torch supports; it names no host.
lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --extra server --extra client --extra dev pyproject.toml --output-file requirements.lock

dist: $(VENV)/.complete
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

SIDE ?= client
CUDA ?= cu13
PLATFORM ?= linux-x86_64
bundle: $(VENV)/.complete
	$(BIN)/python scripts/make_bundle.py --side $(SIDE) --accelerator $(CUDA) --platform $(PLATFORM) $(if $(INDEX),--index $(INDEX)) --out dist

clean:
	rm -rf $(VENV) .stic dist
