# Everything runs in .venv, which the first target that needs it creates. `make help` lists the targets.
VENV := .venv
ifeq ($(OS),Windows_NT)
PY := $(VENV)/Scripts/python.exe
else
PY := $(VENV)/bin/python
endif
STAMP := $(VENV)/.installed
WORKERS ?= 2
PORT ?= 8501

# One thread: two OpenMP threads on two busy cores were measured up to 40 times slower on networks this small.
export OMP_NUM_THREADS := 1

.PHONY: help app lab test fast notebooks screenshots bench lint format browser clean

help:
	@echo "make app          open the lab in the browser (PORT=8501)"
	@echo "make lab          open the lessons in JupyterLab"
	@echo "make test         run every test: unit, property, pages, real browser, lessons (WORKERS=2)"
	@echo "make fast         run the unit and property tests only"
	@echo "make notebooks    rebuild the lessons from notebooks/src and execute them"
	@echo "make screenshots  photograph the lab's pages for the README"
	@echo "make bench        measure the speed figures that the README quotes"
	@echo "make lint         check style and formatting;  make format  repairs what can be repaired"
	@echo "make clean        remove .venv and everything that was generated"

app: $(STAMP)
	@$(PY) -m cllab.launch --port $(PORT)

lab: $(STAMP)
	@$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(STAMP) browser
	$(PY) -m pytest --nbval -n $(WORKERS) --dist loadscope --no-loadscope-reorder

fast: $(STAMP)
	$(PY) -m pytest tests -m "not slow and not browser" -n $(WORKERS) --dist loadscope

notebooks: $(STAMP)
	$(PY) -m tests.tools.notebooks

screenshots: $(STAMP) browser
	$(PY) -m tests.tools.screenshots

bench: $(STAMP)
	$(PY) -m cllab.bench overhead

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

browser: $(STAMP)
	@$(PY) -m tests.tools.browser

clean:
	rm -rf $(VENV) build dist *.egg-info test-artefacts .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than what it was installed from, so a second `make` installs nothing.
$(STAMP): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python py; do \
	    if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      echo "Creating $(VENV) with $$($$candidate --version)"; exec $$candidate -m venv $(VENV); \
	    fi; \
	  done; \
	  echo "cllab needs Python 3.11 or newer with pip and venv, and found none under the names python3," >&2; \
	  echo "python3.14 to python3.11, python or py. Install one (on Debian: apt install python3-venv) and try again." >&2; \
	  exit 1; }
	@echo "Installing cllab and what it needs into $(VENV): 2 to 4 minutes and 2 GB the first time"
	$(PY) -m pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt -e '.[all]'
	@touch $(STAMP)
