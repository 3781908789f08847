# Two commands for a fresh clone; each makes .venv first. PYTHON says which Python (3.11 or newer) makes it, CONSTRAINTS
# which versions it holds, ARGS adds flags, as in: make train ARGS="--num_train_epochs 20 --overwrite_output_dir"
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv

.PHONY: train test

train: $(VENV)/installed
	$(VENV)/bin/accelerate launch --quiet --config_file configuration/accelerate/cpu.yaml \
		train.py --config configuration/quickstart.yaml $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest $(ARGS)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@
