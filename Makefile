# Needs Python ≥ 3.10, make and the package index. Everything lands in .venv and demo-output.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-output

.PHONY: help demo test lint format fixture clean

help:
	@echo "make demo     convert the trained fixture to .safetensors and .onnx, and compare on its test images"
	@echo "make test     lint, types, tests"
	@echo "make format   apply the formatter"
	@echo "make fixture  train the fixture again"
	@echo "make clean    remove what the others made"

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed
	@mkdir -p $(OUT)
	$(BIN)/ceconv-convert fixtures/color_digits.pt --input-shape 3,16,16 --force \
		-o $(OUT)/color_digits.safetensors -o $(OUT)/color_digits.onnx
	$(BIN)/python fixtures/agreement.py $(OUT)/color_digits.safetensors $(OUT)/color_digits.onnx

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fixture: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fixtures]'
	$(BIN)/python fixtures/train_color_digits.py

clean:
	rm -rf $(VENV) $(OUT) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
