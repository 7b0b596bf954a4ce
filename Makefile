# What each target needs it makes itself: an environment in .venv, the tools, the installed package. The machine only has
# to have Python 3.11 or later and a C compiler. A target whose inputs have not changed does nothing again.
#
#     make test PYTHON=python3.13 VENV=.venv-3.13     another interpreter, in an environment of its own
#     make test ARGS="-k horizon -x"                  arguments for pytest
#     make test PARALLEL=                             one process
#     make demo DEMO_ARGS="--count 6"                 arguments for ldc demo

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DEMO_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# -P: the folder that make runs in is not on the path, so that `import ldc` finds the installed package.
# RERUNS=1, as CI sets it: a test that fails runs once more, and the summary names it under RERUN.
PYTEST := $(BIN)/python -P -m pytest $(if $(RERUNS),--reruns $(RERUNS) -r fER)
# Two processes for each processor, because half of the time of most tests is waiting. Tests of one group, which
# share what is slow to make, stay in one process.
PARALLEL ?= -n $(shell $(PYTHON) -c "import os; print(min(8, 2 * (os.cpu_count() or 1)))") --dist loadgroup
# The legs of make check keep the processors busy.
PARALLEL_BUSY ?= -n auto --maxprocesses 4 --dist loadgroup

# The folders stand for files that were added or removed.
PACKAGE := $(shell find ldc -type d -not -name __pycache__) \
	$(shell find ldc -name '*.py' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxi' -o -name py.typed) \
	$(wildcard ldc/gateway/static/*) \
	include/ldc_shared.h binance_local_depth_cache.py setup.py pyproject.toml MANIFEST.in README.md LICENSE

.PHONY: help test lint audit check check-cluster simulate-cluster bench-cluster check-shared coverage matrix fuzz torn torn-shared feeders clean analytics simulate mutants mutants-core \
	demo detect soak docs bench bench-analytics bench-blocks bench-consume bench-fresh bench-gateway bench-pace bench-peers bench-peers-loopback \
	bench-peers-recordings bench-recovery bench-scale bench-shared \
	web web-test web-screenshots
.DELETE_ON_ERROR:
# Two builds at once would write into the same folder.
.NOTPARALLEL:

help:
	@echo "make demo      build, install, and show a live order book of the embedded exchange; no network is needed for it"
	@echo "make web       the same in a browser: http://127.0.0.1:8080"
	@echo "make test      build, install, and run the tests (minutes; what a change must pass)"
	@echo "make lint      style, types, and the tests that read the sources (seconds)"
	@echo "make check     the long tests, and the order books on the checked, sanitized and plain Python builds (minutes)"
	@echo "make simulate SEEDS=0..99999   simulated histories by the thousand, on all cores; resumable"
	@echo "make analytics CASES=1000000   random questions about random books, judged with plain Decimals"
	@echo "make mutants   break the rules on purpose, and see whether the tests notice (minutes)"
	@echo "make mutants-core   the same for the compiled order book (half an hour)"
	@echo "make bench     measure; LDC_CAPTURES=folder names the recordings"
	@echo "make docs      the documentation as a site, in build/site; open index.html there"
	@echo "make bench-analytics       what a mid, a fill, a depth costs at 1, 20 and 1,000 levels"
	@echo "make bench-blocks          the order book alone, on a machine that is not quiet; beside other builds of it"
	@echo "make bench-fresh           how old the book is while the bot's own threads compute"
	@echo "make bench-pace            at the pace of real markets: from the exchange's write to a waiting thread"
	@echo "make bench-consume         streams, callbacks and waits: from the exchange's write to the user's code"
	@echo "make bench-scale           a thousand markets in one process; and what readers cost the writer"
	@echo "make bench-recovery        how soon markets are readable again after resets, gaps and a cut of all connections"
	@echo "make bench-peers           install other libraries' books into build/peers-venv, and measure beside them"
	@echo "make coverage  which lines the tests run, in the .pyx as well"
	@echo "make matrix    make test on every Python from 3.11; those that are not installed come from Debian's packages"
	@echo "make fuzz      changed messages against json and Decimal, under sanitizers, led by coverage; needs clang"
	@echo "make torn      one writer, eight readers, every read checked; SECONDS=60"
	@echo "make torn-shared           the same between processes, by shared memory; READS=10000000"
	@echo "make feeders   shared books whose feeders are killed, stopped and replaced; ROUNDS=1000"
	@echo "make bench-shared          what publishing costs, what reads cost, how soon a reader wakes"
	@echo "make bench-cluster         a cluster on one machine: local reads, pushes, a thousand markets on four nodes"
	@echo "make check-cluster         nodes of a cluster that are killed, stopped and restarted under a reader (minutes)"
	@echo "make simulate-cluster HISTORIES=10000   the rules of nodes in virtual time: deaths, hangs, partitions, bans"
	@echo "make clean     remove everything that make has made"

# ---------------------------------------------------------------------------------------------------- the environment

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "ldc needs Python 3.11 or later, and $(PYTHON) is not: name another, as in 'make test PYTHON=python3.13'" >&2; exit 1; }
	@echo "ldc: making an environment for Python in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@touch $@

# What builds the package stands in pyproject.toml only; read it there instead of isolating each build, which would install it anew.
$(VENV)/.build-tools: pyproject.toml | $(VENV)/.created
	@echo "ldc: installing Cython and setuptools in it"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build-tools.txt
	@$(PIP) install -r $(VENV)/build-tools.txt
	@touch $@

$(VENV)/.lint-tools: pyproject.toml | $(VENV)/.build-tools
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/lint-tools.txt
	$(PIP) install -r $(VENV)/lint-tools.txt
	@touch $@

$(VENV)/.docs-tools: pyproject.toml | $(VENV)/.build-tools
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)/docs-tools.txt
	$(PIP) install -r $(VENV)/docs-tools.txt
	@touch $@

$(VENV)/.installed: $(PACKAGE) $(VENV)/.build-tools
	$(PIP) install --no-build-isolation '.[test]'
	@touch $@ $(VENV)/.demo-installed

# Only what the demo needs, for those who look for the first time.
$(VENV)/.demo-installed: $(PACKAGE) $(VENV)/.build-tools
	@echo "ldc: compiling the order book, about half a minute"
	@$(PIP) install --no-build-isolation '.[cli,simulator]'
	@touch $@

# ------------------------------------------------------------------------------------------------------- what to call

demo: $(VENV)/.demo-installed
	@$(BIN)/ldc demo $(DEMO_ARGS)

# The gateway's page in front of the embedded exchange.
WEB_ARGS ?= BTCUSDT ETHUSDT SOLUSDT --open
web: $(VENV)/.demo-installed
	@$(BIN)/ldc serve --exchange simulator $(WEB_ARGS)

# The page in a real browser, which comes from the system's packages.
web-test: $(VENV)/.installed
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || \
		{ apt-get update && apt-get install --yes --no-install-recommends chromium fonts-dejavu-core; } > build/chromium.log 2>&1 || \
		echo "Chromium cannot be installed: the tests of the page are skipped" >&2
	$(PYTEST) -rs $(ARGS) tests/gateway/test_page.py

web-screenshots:
	LDC_SCREENSHOTS=$(abspath docs/images) $(MAKE) web-test

test: $(VENV)/.installed
	$(PYTEST) $(PARALLEL) -m "not check" $(ARGS)

lint: $(VENV)/.installed $(VENV)/.lint-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(VENV) && bin/python -P -m mypy.stubtest ldc._book
	$(PYTEST) -q tests/project/test_layers.py tests/project/test_tidy.py
	$(PYTEST) -q tests/project/test_short_programs.py -k mypy

check: check-warnings web-test check-long check-foreign check-notebook check-greenlets check-alone check-variants check-mutants

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py $(ARGS)
	$(BIN)/python benchmarks/bench_socket.py

# On a machine that is not quiet: of every 100 updates the quickest round counts.
bench-blocks: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_blocks.py $(ARGS)

# What the analytics cost a call, beside best_bid and a view.
bench-analytics: $(VENV)/.installed
	$(BIN)/python -P benchmarks/bench_analytics.py $(ARGS)

# How old the book is, as the bot sees it, while the bot's own threads compute.
bench-fresh: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_fresh.py $(ARGS)

# From the exchange's write to a waiting thread at the pace of real markets, beside websocket-client's bare loop.
bench-pace: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_pace.py $(ARGS)

# A thousand markets, and what readers cost the writer.
bench-scale: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_scale.py $(ARGS)
	$(BIN)/python benchmarks/bench_readers.py

# What the gateway costs: reads, the way of a diff, listeners.
bench-gateway: $(VENV)/.installed
	$(BIN)/python -P benchmarks/bench_gateway.py $(ARGS)

# What publishing costs on the recordings, what a read costs, how soon a reader wakes, a thousand markets.
bench-shared: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_shared.py $(ARGS)

# A cluster on this machine: local reads, pushes, a thousand markets twice on four nodes; three minutes.
bench-cluster: $(VENV)/.installed
	$(BIN)/python -P benchmarks/bench_cluster.py $(ARGS)

# How soon markets are readable again after resets, gaps, and a cut of all connections; five minutes.
bench-recovery: $(VENV)/.installed
	$(BIN)/python -P benchmarks/bench_recovery.py $(ARGS)

# What others have made, in an environment of its own: they need a hundred packages, and some a certain Python.
PEERS_VENV ?= build/peers-venv
PEERS_PYTHON ?= $(PYTHON)
PEERS := unicorn-binance-local-depth-cache python-binance ccxt cryptofeed nautilus_trader hftbacktest sortedcontainers picows orjson
$(PEERS_VENV)/.peers:
	$(PEERS_PYTHON) -m venv --clear $(PEERS_VENV)
	for peer in $(PEERS); do $(PEERS_VENV)/bin/python -m pip --quiet --disable-pip-version-check install $$peer || \
		echo "$$peer cannot be installed: it will have no row with numbers" >&2; done
	@touch $@

$(PEERS_VENV)/.installed: $(PACKAGE) $(PEERS_VENV)/.peers
	$(PEERS_VENV)/bin/python -m pip --quiet --disable-pip-version-check install .
	@touch $@

# On recordings in one process, then over loopback with each library's own client. Each part writes its results, its tables,
# its plot, and its line of the README. PEERS_PARTS=loopback runs one part. Under another name than "peers", as in
# PEERS_RESULTS=peers-python3.13, the results are written and the documents left alone.
PEERS_PARTS ?= recordings loopback
PEERS_RESULTS ?= peers
PEERS_ARGS_recordings ?= $(ARGS)
PEERS_ARGS_loopback ?=
PEERS_PY := $(PEERS_VENV)/bin/python
bench-peers: $(PEERS_PARTS:%=bench-peers-%)

define bench_peers
	$(PEERS_PY) benchmarks/$(1).py --json benchmarks/results/$(PEERS_RESULTS)$(2).json $(3)
	$(if $(filter peers,$(PEERS_RESULTS)),$(PEERS_PY) benchmarks/$(1)_report.py benchmarks/results/peers$(2).json \
		docs/evidence/peers.md docs/images/peers$(2).svg README.md)
endef

# Ways of consuming: from the exchange's write to the user's code, beside other libraries where they are installed.
bench-consume: $(PEERS_VENV)/.installed
	$(PEERS_PY) benchmarks/bench_consume.py $(ARGS)

bench-peers-recordings: $(PEERS_VENV)/.installed
	$(call bench_peers,bench_peers,,$(PEERS_ARGS_recordings))

bench-peers-loopback: $(PEERS_VENV)/.installed
	$(call bench_peers,bench_loopback,-loopback,$(PEERS_ARGS_loopback))

# Names are looked up in the installed package, whose compiled part a look at the sources would not show.
docs: $(VENV)/.installed $(VENV)/.docs-tools
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -P -m mkdocs build --quiet --strict
	@$(call site_program,mermaid@11,package/dist/mermaid.min.js,mermaid.min.js)
	@$(call site_program,iframe-worker@1,package/shim/index.js,iframe-worker.js)
	@echo "open build/site/index.html"

# Programs that the pages run, from packages of npm, so that the site needs no network. They are fetched once.
# site_program: the package, the file in it, and the file's name in the site.
define site_program
	mkdir -p build/npm build/site/assets/external; \
	test -s build/npm/$(3) || { archive=$$(cd build/npm && npm pack --silent $(1)) && \
		tar -xzOf build/npm/$$archive $(2) > build/npm/$(3); }; \
	if test -s build/npm/$(3); then cp build/npm/$(3) build/site/assets/external/; else \
		echo "$(1) cannot be fetched with npm: diagrams, or the search without a server, need the network" >&2; fi
endef

# Add --record to ARGS to make a row of docs/evidence/runs.md out of the result.
SEEDS ?= 0..9999
simulate: $(VENV)/.installed
	$(BIN)/python -P tests/tools/simulate.py $(SEEDS) $(ARGS)

# Recordings looped at twenty times their speed, a fault a minute. LDC_CAPTURES=folder names them.
MINUTES ?= 60
soak: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/soak.py --minutes $(MINUTES) $(ARGS)

# Random questions about random books, on all cores; prints what was answered wrongly.
CASES ?= 100000
analytics: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/many_questions.py --cases $(CASES) $(ARGS)

# Prints how long each fault of the embedded exchange takes to be noticed and to be over.
detect: $(VENV)/.installed
	$(BIN)/python -P tests/tools/detection_times.py $(ARGS)

mutants: $(VENV)/.installed
	$(BIN)/python -P tests/tools/mutate.py $(ARGS)

# Breaks the compiled order book. It needs gcc, and half an hour of two processors.
mutants-core: $(VENV)/.installed
	$(BIN)/python -P tests/tools/mutate_core.py $(ARGS)

# The lines of the .pyx are found only beside the C file, so this build is made in place, and removed at the end.
coverage: $(VENV)/.installed $(VENV)/.lint-tools
	LDC_BUILD=trace $(BIN)/python setup.py --quiet build_ext --inplace
	trap 'rm -f ldc/_book.c ldc/_book.*.so' EXIT; \
		PYTHONPATH=$(CURDIR) $(BIN)/python -P -m coverage run -m pytest -m "not check" $(ARGS) && \
		$(BIN)/coverage report && $(BIN)/coverage html --quiet

matrix:
	.ci/matrix $(ARGS)

# FUZZ_TARGET="update" FUZZ_JUDGE="portable" FUZZ_BUILD=release FUZZ_RUNS=1000000; fuzz/run.py says what they are. Inputs that are
# found stay in build/fuzz, so that the next run goes on from there.
FUZZ_TARGET ?= update snapshot number
FUZZ_JUDGE ?= python portable
FUZZ_BUILD ?= fuzz
FUZZ_RUNS ?= 0
FUZZ_SECONDS ?= $(if $(filter 0,$(FUZZ_RUNS)),60,0)
FUZZ_SEED ?= 0
FUZZ = $(BIN)/python fuzz/run.py --build $(1) --target $$target --judge $$judge --runs $(2) --seconds $(3) --seed $(4)
fuzz: $(VENV)/.installed
	@test $(FUZZ_BUILD) != fuzz || command -v clang > /dev/null || ls /usr/bin/clang-[0-9]* > /dev/null 2>&1 || { \
		echo "make fuzz needs clang, and installs it"; apt-get install --yes clang libclang-rt-dev; }
	for judge in $(FUZZ_JUDGE); do for target in $(FUZZ_TARGET); do \
		$(call FUZZ,$(FUZZ_BUILD),$(FUZZ_RUNS),$(FUZZ_SECONDS),$(FUZZ_SEED)) || exit 1; done; done

# One feeder process at full rate, four reader processes, every view checked; so many reads.
READS ?= 10000000
torn-shared: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/torn_shared.py --reads $(READS)

# Feeders that are killed, stopped, replaced, and readers that must say why.
ROUNDS ?= 1000
feeders: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/killed_feeders.py --rounds $(ROUNDS)

# Prints how many reads were checked.
SECONDS ?= 60
torn: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/torn_reads.py --seconds $(SECONDS)

# Nodes of a cluster as processes that are killed, stopped and restarted under a reader; two minutes, by hand. LDC_CLUSTER_FAULTS=50 for more.
check-cluster: $(VENV)/.installed
	$(PYTEST) -n 0 -m check $(ARGS) tests/cluster/test_cluster_processes.py

# Clusters in virtual time, from a random first seed unless FIRST names it; seven minutes of one processor for 10,000. By hand.
HISTORIES ?= 10000
simulate-cluster: $(VENV)/.installed
	PYTHONPATH=tests/kits $(BIN)/python -P tests/tools/cluster_histories.py --histories $(HISTORIES) $(if $(FIRST),--first $(FIRST))

clean:
	rm -rf build dist .venv .venv-* *.egg-info .coverage htmlcov .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ the legs of make check

.PHONY: check-warnings check-long check-foreign check-gateways check-notebook check-greenlets check-hostile check-alone check-variants check-checked check-sanitize check-pure check-fuzz \
	check-mutants build-checked build-sanitize build-pure-python try-checked try-sanitize try-pure-python

# build_variant: install the variant $(1), built with $(2), into a folder that goes in front of the path.
# try_variant: make sure that it is what is imported under the environment $(2), and run the tests on it.
# The variants differ in the order book, so what they are tried with is what tries the books.
BOOK_TESTS = $(wildcard tests/book/test_book_*.py) tests/book/test_allocation_failures.py tests/book/test_frames.py tests/book/test_hostile.py \
	tests/book/test_recordings.py tests/ground/test_sequence.py tests/sync/test_histories.py tests/feed/test_tls.py
VARIANT = $(abspath build/check)/$(1)
define build_variant
	rm -rf $(VARIANT)
	$(2) $(PIP) install --no-deps --no-build-isolation --target $(VARIANT) .
endef
define try_variant
	$(2) PYTHONPATH=$(VARIANT) $(BIN)/python -P -c 'from ldc._build import BUILD; assert BUILD == "$(1)", BUILD'
	$(2) LDC_HISTORIES=200 PYTHONPATH=$(VARIANT) $(PYTEST) -m "not check" $(3) $(BOOK_TESTS) $(ARGS)
endef

# The C compiler has nothing to warn of.
check-warnings: $(VENV)/.installed
	LDC_WERROR=1 $(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/check/warnings .

# The tests that take too long for `make test`, but for those with a target of their own.
FOREIGN_TESTS = tests/gateway/test_foreign_clients_on_the_gateway.py tests/simulator/test_foreign_clients.py
OWN_TARGET = tests/cluster/test_cluster_processes.py tests/gateway/test_page.py tests/manager/test_greenlets.py \
	tests/manager/test_hostile_environment.py tests/project/test_notebook.py $(FOREIGN_TESTS)
check-long: $(VENV)/.installed
	LDC_CLUSTER_HISTORIES=$${LDC_CLUSTER_HISTORIES:-500} $(PYTEST) $(PARALLEL_BUSY) -m check $(addprefix --ignore=,$(OWN_TARGET)) $(ARGS)

# Shared books alone: many histories, torn views, killed feeders, fuzzed memory, and the examples in C, C++, Rust and Go.
check-shared: $(VENV)/.installed
	$(PYTEST) $(PARALLEL_BUSY) $(ARGS) tests/shared

# Other people's clients against the embedded exchange, and against a gateway under three of its faults. Where they cannot be
# installed, their tests are skipped and say so. LDC_FOREIGN_FAULTS=all: under every fault, by hand, a quarter of an hour.
FOREIGN := build/check/foreign
FOREIGN_CLIENTS := python-binance ccxt cryptofeed unicorn-binance-local-depth-cache
check-foreign: $(VENV)/.installed
	$(PIP) install --upgrade --target $(FOREIGN) $(FOREIGN_CLIENTS) || \
		$(PIP) install --upgrade --target $(FOREIGN) python-binance ccxt || \
		echo "other people's clients cannot be installed here" >&2
	PYTHONPATH=$(FOREIGN) $(PYTEST) -rs -m check $(if $(LDC_FOREIGN_FAULTS),-o faulthandler_timeout=3600) $(ARGS) $(FOREIGN_TESTS)

# Two gateways as processes, one of which is killed or stopped, under a replica of both. LDC_GATEWAY_FAULTS=50 for more rounds.
check-gateways: $(VENV)/.installed
	$(PYTEST) -n 0 -s -m check $(ARGS) tests/gateway/test_two_gateways.py

# The notebook of the examples in a kernel. Where that cannot be installed, its test is skipped and says so.
KERNEL := $(abspath build/check/kernel)
check-notebook: $(VENV)/.installed
	$(PIP) install --upgrade --target $(KERNEL) nbclient ipykernel || echo "a kernel cannot be installed here" >&2
	PYTHONPATH=$(KERNEL) $(PYTEST) $(ARGS) tests/project/test_notebook.py

# Known vulnerabilities of what the extras install, by name and version. It needs the service that knows them: what cannot be
# audited is an error as well.
AUDIT := build/audit
audit:
	$(PYTHON) -m venv --clear $(AUDIT)/installed && $(PYTHON) -m venv --clear $(AUDIT)/tool
	$(AUDIT)/installed/bin/python -m pip --quiet --disable-pip-version-check install '.[all]'
	$(AUDIT)/tool/bin/python -m pip --quiet --disable-pip-version-check install 'pip-audit>=2.9'
	$(AUDIT)/installed/bin/python -m pip freeze --exclude binance-local-depth-cache > $(AUDIT)/requirements.txt
	$(AUDIT)/tool/bin/pip-audit --strict --no-deps --disable-pip -r $(AUDIT)/requirements.txt $(ARGS)

# What surrounds the threads, with the long tests: processes that are stopped for 20 s, exceptions at every call. By hand.
check-hostile: $(VENV)/.installed
	$(PYTEST) $(PARALLEL_BUSY) $(ARGS) tests/manager/test_hostile_environment.py

# Programs whose threads are greenlets. Where the libraries cannot be installed, these tests are skipped and say so.
GREENLETS := build/check/greenlets
check-greenlets: $(VENV)/.installed
	$(PIP) install --upgrade --target $(GREENLETS) gevent eventlet || echo "gevent or eventlet cannot be installed here" >&2
	PYTHONPATH=$(GREENLETS) $(PYTEST) $(PARALLEL_BUSY) $(ARGS) tests/manager/test_greenlets.py

# The faults of frames, sockets and HTTP again, with a connection and a thread for each market.
check-alone: $(VENV)/.installed
	LDC_MARKETS_PER_CONNECTION=1 $(PYTEST) $(PARALLEL) -m "not check" $(ARGS) $(wildcard tests/manager/test_manager*.py)

# A part of `make mutants`, always the same.
# A lot of 60 says less than one of 200 (make mutants, of which 95 % must die), so it is asked for less.
check-mutants: $(VENV)/.installed
	$(BIN)/python -P tests/tools/mutate.py --count 60 --at-least 0.85

# The builds first, because two at once would write into the same folder. Their tests need nothing but a processor, so they
# go side by side on two of them; what the others say is shown when these are done.
check-variants: build-checked build-sanitize build-pure-python
	$(MAKE) try-sanitize check-fuzz > build/check/sanitize.log 2>&1 & others=$$!; \
		$(MAKE) try-checked try-pure-python; failed=$$?; \
		wait $$others; others_failed=$$?; cat build/check/sanitize.log; exit $$((failed + others_failed))

check-checked: build-checked try-checked
check-sanitize: build-sanitize try-sanitize
check-pure: build-pure-python try-pure-python

build-checked: $(VENV)/.installed
	$(call build_variant,checked,LDC_BUILD=checked)
try-checked:
	$(call try_variant,checked,)

# Python itself is not sanitized, so the runtimes are loaded before it. Python's own allocator would hide overruns from
# them, and it leaks on purpose. pytest's capture would swallow the last words of an abort, hence -s.
SANITIZER_RUNTIMES = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)
build-sanitize: $(VENV)/.installed
	@for file in $(subst :, ,$(SANITIZER_RUNTIMES)); do \
		test -e $$file || { echo "there is no $$file: make check-sanitize needs gcc with its sanitizers" >&2; exit 1; }; done
	$(call build_variant,sanitize,LDC_BUILD=sanitize)
try-sanitize:
	$(call try_variant,sanitize,LD_PRELOAD=$(SANITIZER_RUNTIMES) PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1,-s)

build-pure-python: $(VENV)/.installed
	$(call build_variant,pure-python,LDC_PURE_PYTHON=1)
try-pure-python:
	$(call try_variant,pure-python,)

# Each target for some seconds under the sanitizers: without coverage, so that it needs no more than check-sanitize does.
# Two builds are compared. What json and Decimal judge, beside a sample here, is in tests/book/test_fuzz.py.
check-fuzz: $(VENV)/.installed
	judge=portable; set -e; \
	target=update; $(call FUZZ,sanitize,60000,0,0); \
	target=snapshot; $(call FUZZ,sanitize,60000,0,0); \
	target=number; $(call FUZZ,sanitize,8000,0,0)
