# Thin on purpose: the work is in Python. `make` alone says what there is.
.PHONY: help demo test unit bench model chaos soak systemd deb bundle updates packages container image clean
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

help:
	@echo "make demo    the whole runtime at work on this machine's own metrics, about a minute"
	@echo "make test    every test, the linter and the type checker"
	@echo "make unit    the fast loop: no process is started, and a fifth of the random cases are tried"
	@echo "make bench   speed, as a share of this machine's own limits"
	@echo "make model   device management's models, random run by random run (RUNS=)"
	@echo "make chaos   break things at random for minutes (SEED=, MINUTES=)"
	@echo "make soak    tokens that live for seconds, under load (MINUTES=); all work, again and again (ROUNDS=)"
	@echo "make systemd the unit and the installer under a live systemd (root, user-mode-linux; minutes)"
	@echo "make deb     Debian packages into dist/ (ARCH=amd64|arm64|armhf|all, DEBIAN=12|13|all)"
	@echo "make bundle  an update for edgectl update apply, signed by EDGE_UPDATE_KEY (ARCH=, DEBIAN=, IMAGE=)"
	@echo "make updates a one-way update, updates killed at random, and bad bundles (ARGS='--kills 100 --bad 50'; an hour)"
	@echo "make packages all packages, parts lists and the offline bundle; installed, upgraded, purged (root; minutes)"
	@echo "make container  the image, run by podman and runc (root; a minute or two)"
	@echo "make image   a bootable disk with two slots, built twice, booted in User Mode Linux (root; minutes);"
	@echo "             with ARCH=arm64 it is only built, by qemu-user (half an hour)"
	@echo "make clean   remove what the above made"

$(READY): pyproject.toml constraints.txt deploy/bootstrap.py
	@$(PYTHON) deploy/bootstrap.py $(VENV)

demo: $(READY)
	@$(VENV)/bin/edgectl demo $(ARGS)

test: $(READY)
	@$(VENV)/bin/python -m tests $(ARGS)

unit: $(READY)
	@TEST_DEPTH=shallow $(VENV)/bin/python -m pytest -n auto tests/unit $(ARGS)

bench: $(READY)
	@$(VENV)/bin/python -m runtime.bench $(ARGS)

model: $(READY)
	@MODEL_RUNS=$(or $(RUNS),30000) $(VENV)/bin/python -m pytest --timeout=0 -k random_run tests/unit/test_twin_sync.py tests/unit/test_command_queue.py tests/unit/test_calls.py

chaos: $(READY)
	@$(VENV)/bin/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

soak: $(READY)
	@EDGE_SOAK_S=$$(( 60 * $(or $(MINUTES),10) )) $(VENV)/bin/python -m pytest -s tests/faults/test_identity_lifetimes.py
	@EDGE_LEDGER_KILLS=1000 $(VENV)/bin/python -m pytest tests/integration/test_ledger.py -k kill
	@SOAK_ROUNDS=$(or $(ROUNDS),100) $(VENV)/bin/python -m pytest -s tests/faults/test_nothing_grows.py

systemd: $(READY)
	@$(VENV)/bin/python -m tests.machine.systemd

deb: $(READY)
	@$(VENV)/bin/python -m deploy.packaging deb --arch $(or $(ARCH),amd64) --release $(or $(DEBIAN),12)

bundle: $(READY)
	@$(VENV)/bin/python -m deploy.packaging update --arch $(or $(ARCH),amd64) --release $(or $(DEBIAN),12) $(if $(IMAGE),--image $(IMAGE))

updates: $(READY)
	@$(VENV)/bin/python -m tests.machine.update_one_way
	@$(VENV)/bin/python -m tests.machine.update $(ARGS)

packages: $(READY)
	@$(VENV)/bin/python -m tests.machine.packages $(ARGS)

container: $(READY)
	@$(VENV)/bin/python -m tests.machine.container $(ARGS)

image: $(READY)
	@$(VENV)/bin/python $(if $(filter-out amd64,$(ARCH)),-m deploy.packaging image --arch $(ARCH),-m tests.machine.image) $(ARGS)

clean:
	rm -rf $(VENV) build dist bench-report .mypy_cache .ruff_cache .hypothesis
