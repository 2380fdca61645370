# Everything a newcomer types. The first call makes .venv from constraints.txt; later calls repeat no set-up.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2

.PHONY: demo test check test-slow bench test-gpu

demo: $(READY)
	$(BIN)/python -m examples.resnet50 --output build/demo

test: check
	$(BIN)/pytest -n $(WORKERS) -q

# The types are checked on a copy laid out as installed: mypy follows neither an editable install nor a package-dir map.
check: $(READY)
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	rm -rf build/types && mkdir -p build/types
	cp -r lowprec build/types/lowprec
	cp -r passes schedules build/types/lowprec/
	MYPYPATH=build/types $(BIN)/mypy -p lowprec
	MYPYPATH=build/types $(BIN)/mypy tests benchmarks examples

test-slow: $(READY)
	$(BIN)/pytest -n $(WORKERS) -q -m slow

bench: $(READY)
	$(BIN)/python -m benchmarks.networks
	$(BIN)/python -m benchmarks.layers
	$(BIN)/python -m benchmarks.rounding

test-gpu: $(READY)
	@if ls tests/gpu/test_*.py >/dev/null 2>&1; then $(BIN)/pytest -q tests/gpu; \
	else echo "no target for GPUs is built yet, so there is nothing to test"; fi

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench,dev,testing,train]'
	touch $@
