# Everything a contributor or CI runs. `make demo` and `make test` work on a
# machine that has only Python 3.11+ and make: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup ci-tools demo test check format cover fuzz sim without-v1 cancellation crash faults soak hostile requests slow-links unfinished garbage bench report docs wheel proto clean

help:
	@echo "make demo    messages, forgeries and crashes of several processes, in about ten seconds"
	@echo "make test    the whole test suite"
	@echo "make check   ruff, mypy --strict (also of the docs), import arrows"
	@echo "make bench   speed beside other software, as ratios"
	@echo "make report  the figure and tables of docs/performance.md, from the last bench"
	@echo "make docs    the pages of options and metrics, from the code"
	@echo "make sim     SEEDS=500 of each kind of nodes in virtual time under seeded faults"
	@echo "make cancellation  RUNS=2000 of cancelled calls, on both event loops"
	@echo "make crash   KILLS=1000 of two nodes with stores under load, by SIGKILL"
	@echo "make faults  CALLS=200 system calls of each kind that fail or kill (needs strace)"
	@echo "make soak    MINUTES=60 of load with cuts and kills; memory stays flat"
	@echo "make hostile SECS=2 of every attack on a node, beside an honest peer"
	@echo "make requests  REQUESTS=100000 with cuts, restarts, late and duplicate replies"
	@echo "make slow-links  STOPS=200 emergency stops behind images, on each of several slow links"
	@echo "make unfinished  LINKS=1000 strangers that begin a large batch and stop: memory"
	@echo "make garbage MIB=1024 of each kind of garbage to verify: time and memory"
	@echo "make fuzz    SECONDS=60 of fuzzing for each parser, or for TARGET=name alone"
	@echo "make cover   branch coverage of wire/, delivery/ and evidence/"
	@echo "make ci-tools  programs that some tests need (Debian, as root)"
	@echo "make wheel   a wheel for this platform with compiled modules, and its tests"
	@echo "make proto   regenerate the protobuf code"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "signedwire needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) (once; up to a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

setup: $(STAMP)

# Programs that some tests need and skip without: network namespaces, other clocks and other
# TLS libraries. Debian, as root.
CI_TOOLS := iproute2 faketime openssl gnutls-bin
ci-tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  dpkg -s $(CI_TOOLS) >/dev/null 2>&1 || \
	  { apt-get update -qq && apt-get install -qq --yes --no-install-recommends $(CI_TOOLS); }; fi

demo: setup
	@$(BIN)/python -m examples.demo

# Two workers, each with whole files: some tests wait, and some count what their file leaves.
# In the order of the folders: by the number of tests, the longest files would come last, and
# one worker would have nothing to do.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
test: setup
	@$(BIN)/python -m pytest $(WORKERS)

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_architecture.py tests/test_docs_types.py tests/test_prose.py

# Pages and fields that are made from tables in the code.
format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

cover: setup
	@$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=
	@$(BIN)/coverage report --include='*/wire/*,*/delivery/*,*/evidence/*' --show-missing --fail-under=100

SEEDS ?= 500
sim: setup
	@for kind in '' --stores --clocks '--stores --clocks'; do \
	  $(BIN)/python -m tests.simulator --seeds $(SEEDS) $$kind || exit 1; done

RUNS ?= 2000
without-v1: setup
	@WITHOUT_V1=whole $(BIN)/python -m pytest -q --timeout 3600 tests/test_without_v1.py

cancellation: setup
	@CANCELLATION_RUNS=$(RUNS) $(BIN)/python -m pytest -q --timeout 3600 tests/test_cancellation.py

# These make processes of their own, and so run where their package is found.
KILLS ?= 1000
crash: setup
	@cd tests && ../$(BIN)/python -m crash --kills $(KILLS)

CALLS ?= 200
faults: setup
	@cd tests && ../$(BIN)/python -m crash.faults --limit $(CALLS)

MINUTES ?= 60
soak: setup
	@cd tests && ../$(BIN)/python -m crash.soak --minutes $(MINUTES)

SECS ?= 2
hostile: setup
	@cd tests && ../$(BIN)/python -m hostile --seconds $(SECS)

REQUESTS ?= 100000
requests: setup
	@cd tests/messaging && ../../$(BIN)/python -m request_campaign --requests $(REQUESTS)

STOPS ?= 200
slow-links: setup
	@cd tests && ../$(BIN)/python -m hostile.slow_links --stops $(STOPS)

LINKS ?= 1000
PARTS ?= 1
unfinished: setup
	@cd tests && ../$(BIN)/python -m hostile.unfinished $(LINKS) $(PARTS)

MIB ?= 1024
garbage: setup
	@$(BIN)/python tests/cli/garbage.py $(MIB)

SECONDS ?= 60
TARGET ?=
fuzz: setup
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET))

bench: setup
	@$(BIN)/python -m benches --save build/bench.json

# matplotlib is heavy, and only who writes the page needs it.
report: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]'
	@$(BIN)/python -m benches.report build/bench.json

docs: setup
	@$(BIN)/python tests/make_configuration_page.py
	@$(BIN)/python tests/make_metrics.py

# The wheel is built apart from .venv, and tested in a venv of its own, without the sources of the
# checkout.
WHEEL := build/wheel
wheel: setup
	@rm -rf $(WHEEL)
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	@$(BIN)/python -m venv $(WHEEL)/venv
	@$(WHEEL)/venv/bin/python -m pip install --quiet "$$(ls $(WHEEL)/*.whl)[cli,payloads,fast]" pytest pytest-asyncio pytest-timeout hypothesis
	@SIGNEDWIRE_COMPILED=1 $(WHEEL)/venv/bin/python -m pytest tests/wire tests/delivery

# The generated code is checked in, so only someone who changes v1.proto needs this.
# It has a venv inside ours, because this grpcio-tools wants an older protobuf than
# the tests run with: see the `proto` extra.
proto: setup
	@$(BIN)/python -m venv $(VENV)/proto
	@$(VENV)/proto/bin/python -m pip install --quiet --disable-pip-version-check '.[proto]'
	@cd src && ../$(VENV)/proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. signedwire/payloads/v1.proto

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
