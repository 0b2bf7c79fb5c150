# make demo    set everything up, run a study on a shipped dataset, start the page with its first verdict, behind which the
#              rest is run (SERVE=0: run the whole study, and do not start the page)
# make app     the page; its address with the token of this start is printed  (TORCH=cpu, once: PyTorch without CUDA)
# make test    the tests to run before a pull request, on three workers  (ARGS='-k catalog' passes arguments to pytest;
#              WORKERS=0: in one process, whose computations have all cores; CONTRIBUTING.md lists other selections)
# make test-long   the cases of more than 8 seconds: whole studies, several processes, long ways through the page; CI runs them, too
# make test-all    all tests but those that need a GPU: test, test-long, and those marked slow and cluster, an hour
# make check   lint, types, import layers, dependencies, documentation, and the wheel in an empty environment
# make bench   training speed compared with plain and tuned TRL scripts, half an hour or more  (ARGS=--quick for a trial)
# make docs    the documentation as a site in site/  (ARGS=serve: at 127.0.0.1:8001, with search)
# make gpu     the suite that needs a GPU, five minutes on one card; without one it says so (docs/gpu.md)
# make study-full   the demo with both approaches and three seeds, hours on a CPU

PYTHON ?= python3
DEMO ?= datasets_cards/ostrel-sound-ferries/study.yaml
SERVE ?= 1
# cpu: PyTorch without CUDA, from its own index
TORCH ?=
ARGS ?=
WORKERS ?= 3

BIN := .venv/bin
# workers share the cores, so each computes on one
PYTEST = $(if $(filter 0,$(WORKERS)),GOMP_SPINCOUNT=10000,OMP_NUM_THREADS=1) \
  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# what users need, and what developers need on top; both have the versions of constraints.txt
READY := .venv/.ready
READY_DEV := .venv/.ready-dev

# compiled modules and rewritten tests are kept: without them the tests take a minute longer
unexport PYTHONDONTWRITEBYTECODE
# huge pages, which processes that compute have, for the tests themselves: faster where memory is slow
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := demo
.PHONY: demo app test test-long test-all check bench docs gpu study-full

demo: $(READY)
	$(BIN)/assistant-builder run $(DEMO) $(if $(filter 0,$(SERVE)),,--first-verdict)
ifneq ($(SERVE),0)
	$(BIN)/assistant-builder app
endif

app: $(READY)
	$(BIN)/assistant-builder app

test: $(READY_DEV)
	@$(PYTEST) $(ARGS)

test-long: $(READY_DEV)
	@$(PYTEST) -m long $(ARGS)

test-all: test test-long
	@$(MAKE) --no-print-directory test WORKERS=0 ARGS='-m slow'
	@$(MAKE) --no-print-directory test WORKERS=0 ARGS='-m cluster'

check: $(READY_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_packaging.py tests/test_weight.py tests/test_wheel.py -m 'not train'

bench: $(READY_DEV)
	$(BIN)/python -m benchmarks.training_speed $(ARGS)

docs: $(READY_DEV)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)
	@test "$(ARGS)" || echo "The documentation is at $(CURDIR)/site/index.html"

# no case chosen (exit 5, as with ARGS='-k nothing') is no failure of the machine
gpu: $(READY_DEV)
	@$(PYTEST) tests/gpu -m gpu $(ARGS); code=$$?; \
	  if [ $$code -eq 5 ]; then echo "No case of the GPU suite was chosen: nothing was run."; exit 0; fi; exit $$code

study-full: $(READY)
	$(BIN)/assistant-builder run $(DEMO) --name demo-full --set approaches=grounded,memory --set seeds=3

# python -m benchmarks.download_size; the builds for other systems than Linux have no CUDA
DOWNLOAD := $(if $(filter cpu,$(TORCH)),0.5 GB,$(if $(filter Linux,$(shell uname -s)),3.3 GB (PyTorch with CUDA; TORCH=cpu: 0.5 GB),0.5 GB))
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
  $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)

# two stamps: a second make installs nothing unless the requirements changed
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python -m venv failed: on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv; about $(DOWNLOAD) are downloaded, and with the first study 0.2 GB of models."
	$(PIP_INSTALL) -e '.[documents,gguf]'
	@touch $@

$(READY_DEV): $(READY)
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@
