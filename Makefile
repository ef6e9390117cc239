# labctl from a fresh Debian 12 or 13: `make demo` shows what it is for, `make test` checks all of it.
# Each verb installs what is missing first, says so, and does nothing where all is there.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-print-directory

BIN := $(VENV)/bin
PACKAGES := labctl/system-packages.txt
TEST_PACKAGES := tests/system-packages.txt
RUNNER_PACKAGES := tests/runner/system-packages.txt
LOCKS := requirements/build.lock requirements/dev.lock

# A stamp's name holds a digest of all that the step depends on: not times, which a checkout
# changes, but contents, machine and place, so that a copied checkout is not taken for a made one.
digest = $(shell { cat $(1) /etc/machine-id; $(2) pwd; echo $(PYTHON); } 2>/dev/null \
  | sha256sum | cut -c1-16)
SYSTEM := .stamps/system-$(call digest,$(PACKAGES))
TEST_SYSTEM := .stamps/test-system-$(call digest,$(TEST_PACKAGES))
RUNNER_SYSTEM := .stamps/runner-system-$(call digest,$(RUNNER_PACKAGES))
# Inside the environment, so that it goes with it.
# Of pyproject.toml the package's part counts; what follows are the settings of the tools. An
# environment serves one version of Python: after an upgrade in place it would find no package.
ENVIRONMENT := $(VENV)/.made-$(call digest,$(PACKAGES) $(LOCKS),\
  sed '/^\[tool.ruff/Q' pyproject.toml; $(PYTHON) --version;)

# Beside it, because 60 MB serve nothing else.
FUZZ := $(VENV)/.fuzz-$(call digest,requirements/fuzz.lock,$(PYTHON) --version;)

# The same: what documentation and packages are made with.
DOCS := $(VENV)/.docs-$(call digest,requirements/docs.lock,$(PYTHON) --version;)

# A test that hangs ends with every thread's stack: the last net, far beyond what any test takes.
PYTEST = $(BIN)/python -m pytest -rs --timeout=900 -o faulthandler_timeout=600

.PHONY: help
help: ## Say what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: install ## Install what is missing, then lose a checksum's metadata and see where
	@$(BIN)/labctl experiment router-hop $(ARGS)

.PHONY: test
test: install $(TEST_SYSTEM) ## Run every test (options by ARGS, such as ARGS="--accel require")
	@$(PYTEST) $(ARGS)

.PHONY: unit
unit: install ## Run the tests that need neither root nor guests
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: lint
lint: install ## Check style, formatting, types and the direction of imports
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: bench
bench: install ## Measure up and down beside bare QEMU
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: catalogue
catalogue: install ## Run the catalogue of paths with real guests, and make its page in docs
	@$(BIN)/labctl catalogue run --markdown docs/catalogue.md $(ARGS)

.PHONY: docs
docs: install $(DOCS) ## Make the documentation as a site, in site/, with every link checked
	@PATH=$(BIN):$$PATH NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS)
	echo "make: documentation: file://$(CURDIR)/site/index.html"

.PHONY: picture
picture: install ## Run router-hop, and draw the README's picture of its record
	@$(BIN)/labctl experiment router-hop $(ARGS)
	$(BIN)/python package/picture.py last docs/picture.svg

.PHONY: man
man: install ## Make the man pages and the completions of shells, in share/
	@$(BIN)/python package/share.py share

.PHONY: dist
dist: install $(DOCS) man ## Make sdist and wheel, in dist/
	@rm -f dist/*.whl dist/*.tar.gz
	$(BIN)/python -m build --no-isolation --outdir dist .
	rm -rf share

.PHONY: deb
deb: dist ## Make a Debian package, in dist/ (for Debian 12: ARGS="bookworm")
	@$(BIN)/python package/deb.py $(ARGS)

.PHONY: try-install
try-install: ## Install labctl in minimal root file systems, in each way, and run router-hop there
	@$(PYTHON) -m tests.install $(ARGS)

.PHONY: runner
runner: install $(RUNNER_SYSTEM) ## Open a shell in a stock Debian with a real KVM (ARGS='-- COMMAND')
	@$(BIN)/python -m tests.runner shell $(ARGS)

.PHONY: kvm
kvm: install $(RUNNER_SYSTEM) ## Try labctl under KVM in it, as root and as an ordinary user
	@$(BIN)/python -m tests.runner kvm $(ARGS)

.PHONY: soak
soak: install ## Let a Xen host work for 30 minutes, comparing all it moves and keeps
	@$(BIN)/python -m tests.soak $(ARGS)

.PHONY: fuzz
fuzz: install $(FUZZ) ## Try many inputs on what reads others' bytes (ARGS="topologies --resume")
	@$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: faults
faults: install $(TEST_SYSTEM) ## Kill labctl and its programs at random moments (ARGS=--resume)
	@$(BIN)/python -m tests.faults $(ARGS)

.PHONY: repeat
repeat: install ## Run an experiment 100 times, half of them on a busy machine (ARGS=bridged)
	@$(BIN)/python -m tests.repeat $(ARGS)

.PHONY: install
install: $(ENVIRONMENT) ## Install what is missing: system packages, .venv

.PHONY: packages
packages: install $(TEST_SYSTEM) $(RUNNER_SYSTEM) ## Install what the tests and the runner need too

.PHONY: lock
lock: ## Pin the Python packages anew, with hashes
	@$(PYTHON) -m venv .stamps/uv
	.stamps/uv/bin/pip install --quiet uv
	compile() { .stamps/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url "$$@"; }
	compile requirements/build.in -o requirements/build.lock
	compile --extra dev pyproject.toml -o requirements/dev.lock
	compile requirements/fuzz.in -o requirements/fuzz.lock
	compile requirements/docs.in -o requirements/docs.lock

.PHONY: clean
clean: ## Remove what make made here (results and images stay)
	@if [ -e $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .stamps build dist share site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find labctl tests -name __pycache__ -prune -exec rm -rf {} +
	echo "make: removed $(VENV) and caches"

$(SYSTEM): WANTED := $(PACKAGES)
$(TEST_SYSTEM): WANTED := $(TEST_PACKAGES)
$(RUNNER_SYSTEM): WANTED := $(RUNNER_PACKAGES)
$(SYSTEM) $(TEST_SYSTEM) $(RUNNER_SYSTEM):
	@wanted=$$(sed -E 's/#.*//' $(WANTED) | xargs)
	if ! command -v apt-get >/dev/null; then
	  echo "make: this is no Debian: install by hand what corresponds to: $$wanted"
	else
	  # What is installed, and what it provides: libarchive13 is libarchive13t64 from Debian 13 on.
	  have=$$(dpkg-query -W -f '$${db:Status-Status}|$${Package}, $${Provides}\n' \
	    | sed -nE 's/^installed\|//p' | tr ',' '\n' | sed -E 's/ *\(.*//; s/ //g')
	  missing=$$(comm -23 <(tr ' ' '\n' <<<"$$wanted" | sort -u) <(sort -u <<<"$$have") | xargs)
	  if [ -n "$$missing" ]; then
	    sudo=
	    if [ "$$(id -u)" -ne 0 ]; then
	      sudo="sudo --preserve-env=DEBIAN_FRONTEND"
	      command -v sudo >/dev/null || {
	        echo "make: as root, run: apt-get install --no-install-recommends $$missing"; exit 1; }
	    fi
	    echo "make: installing system packages: $$missing"
	    export DEBIAN_FRONTEND=noninteractive
	    $$sudo apt-get update -q
	    $$sudo apt-get install -q -y --no-install-recommends $$missing </dev/null
	  fi
	fi
	mkdir -p .stamps
	stamp=$@
	rm -f "$${stamp%-*}"-*
	touch "$$stamp"

$(ENVIRONMENT): | $(SYSTEM)
	@echo "make: installing labctl and its pinned Python packages into $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"make: Python 3.11 or later is needed, $(PYTHON) is {sys.version.split()[0]}")'
	# Where the environment is active, $(PYTHON) is its own and goes with it.
	python=$$($(PYTHON) -c 'import sys; print(sys._base_executable)')
	if [ -e $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	"$$python" -m venv $(VENV)
	pip() { $(BIN)/python -m pip --disable-pip-version-check --quiet "$$@"; }
	pip install --require-hashes -r requirements/build.lock
	# No isolation: what builds libvirt-python and labctl is pinned as well.
	pip install --no-build-isolation --require-hashes -r requirements/dev.lock
	pip install --no-build-isolation --no-deps --editable .
	touch $@

$(FUZZ): | $(ENVIRONMENT)
	@echo "make: installing atheris, where there is one for this Python"
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --require-hashes \
	  --only-binary :all: -r requirements/fuzz.lock || echo "make: going on without"
	touch $@

$(DOCS): | $(ENVIRONMENT)
	@echo "make: installing what documentation and packages are made with"
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --require-hashes \
	  -r requirements/docs.lock
	touch $@
