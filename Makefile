# Commands for a fresh clone; each makes .venv first. PYTHON says which Python (3.11 or newer) makes it, CONSTRAINTS
# which versions it holds, ARGS adds flags, as in: make train ARGS="--num_train_epochs 20 --overwrite_output_dir"
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv

# Where a test must pass too: on processors that lack what this one has (a limit above it changes nothing), with one
# thread, and with another order of sets, time zone and language.
KINDS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 \
	ONEDNN_MAX_CPU_ISA=AVX512_CORE ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI OMP_NUM_THREADS=1 \
	PYTHONHASHSEED=7,TZ=Pacific/Chatham,LC_ALL=C PYTHONHASHSEED=8,TZ=America/St_Johns,LC_ALL=tr_TR.UTF-8

.PHONY: train test test-everywhere

train: $(VENV)/installed
	$(VENV)/bin/accelerate launch --quiet --config_file configuration/accelerate/cpu.yaml \
		train.py --config configuration/quickstart.yaml $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest $(ARGS)

# A line a kind, and the names of the tests that failed under it.
test-everywhere: $(VENV)/installed
	@failed=0; for kind in $(KINDS); do \
		output=$$(env $$(echo $$kind | tr , ' ') $(VENV)/bin/python -m pytest $(ARGS) 2>&1) || failed=1; \
		echo "$$kind: $$(printf '%s\n' "$$output" | tail -n 1)"; \
		printf '%s\n' "$$output" | grep -E "^(FAILED|ERROR) "; \
	done; exit $$failed

# Modules are compiled as they are first imported, and kept so: most of torch's and Triton's never are. Where nothing is
# kept, each of the many processes that the tests start compiles what train.py imports anew, for some ten seconds.
unexport PYTHONDONTWRITEBYTECODE
$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@
