# Needs Python ≥ 3.10, make and the package index. Everything lands in .venv, .venv-* and demo-output.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-output
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest --numprocesses logical --dist worksteal

.PHONY: help demo docs web test quick oldest newest lint format fixture runtimes clean

help:
	@echo "make demo     convert the trained fixture to .safetensors and .onnx, and compare on its test images"
	@echo "make test     lint, types, all tests"
	@echo "make quick    lint, types, and the tests that catch most mistakes, within a minute"
	@echo "make oldest   the quick tests with the lowest declared versions, in .venv-oldest"
	@echo "make newest   the quick tests with the newest versions that there are, in .venv-newest"
	@echo "make web      the example network on a web page, in demo-output/web, and a test of it (npm, chromium)"
	@echo "make docs     the pages of docs as a site, in demo-output/site, once their code has run"
	@echo "make format   apply the formatter"
	@echo "make fixture  train the fixture again"
	@echo "make runtimes run every form in eight runtimes, each in .runtimes, and write docs/runtimes.md"
	@echo "make clean    remove what the others made"

$(VENV)/installed: CONSTRAINTS := --constraint constraints.txt
.venv-oldest/installed: CONSTRAINTS := --constraint constraints-oldest.txt
$(VENV)/installed .venv-oldest/installed .venv-newest/installed: pyproject.toml constraints.txt constraints-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed
	@mkdir -p $(OUT)
	$(BIN)/ceconv-convert fixtures/color_digits.pt --input-shape 3,16,16 --force \
		-o $(OUT)/color_digits.safetensors -o $(OUT)/color_digits.onnx
	$(BIN)/python fixtures/agreement.py $(OUT)/color_digits.safetensors $(OUT)/color_digits.onnx

web: $(VENV)/installed
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix .web onnxruntime-web@1.30.0
	$(BIN)/python docs/web_demo/make_demo.py $(OUT)/web
	$(BIN)/python -m pytest tests/test_web_demo.py
	@echo "look at it: python3 -m http.server --directory $(OUT)/web, then http://localhost:8000"

test: lint
	$(BIN)/python $(PYTEST) -m "not docs"

quick: lint
	$(BIN)/python $(PYTEST) -m "not slow and not docs"

oldest newest: %: .venv-%/installed
	$(<D)/bin/python $(PYTEST) -m "not slow and not docs"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python $(PYTEST) -m docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fixture: $(VENV)/installed
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[fixtures]'
	$(BIN)/python fixtures/train_color_digits.py

runtimes: $(VENV)/installed
	$(BIN)/python docs/runtimes.py

clean:
	rm -rf $(VENV) .venv-* .web .runtimes $(OUT) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
