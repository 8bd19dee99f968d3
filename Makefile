# `make demo` and `make test` make their own environment in .venv; a second run skips what is done.
# A torch that can be imported in .venv already (a GPU build, say) is kept.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.stamp

.PHONY: demo test faults

demo: $(STAMP)
	@test -f out/demo-faces/face-0023.png || $(BIN)/eim faces render --count 24 --seed 7 --out out/demo-faces
	$(BIN)/eim edit examples/demo.yaml
	$(BIN)/eim report out/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy eim_ops pipeline jobs
	$(BIN)/pytest

# Kills, a failing store, a failing device: every scenario, about half an hour; then out/faults/faults.json.
faults: $(STAMP)
	$(BIN)/python -m tests.faults --out out/faults

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install torch==2.13.0
	$(BIN)/python -c "import torch; print('torch==' + torch.__version__)" > .venv/torch.txt
	grep -v "^torch==" constraints.txt | cat - .venv/torch.txt > .venv/constraints.txt
	$(BIN)/pip install -c .venv/constraints.txt -e ".[test]"
	touch $(STAMP)
