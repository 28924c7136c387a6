# Every target makes its own environment first: nothing is needed but Python and make.
# uv installs where it is there, pip otherwise.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# one thread is the fastest for networks of this size, and keeps timings comparable
export OMP_NUM_THREADS ?= 1
# many tests start a process of their own, which would compile the package again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help train test lint check contract test-faults format bench results docs clean

help:
	@echo "make train [ARGS='env=tmaze seed=1']   train an agent; ARGS are passed on"
	@echo "make test  [ARGS='-k rmt']             all tests"
	@echo "make check                             format, lint, types and the fast tests"
	@echo "make contract                          300 random cases of every policy's contract; an hour or more"
	@echo "make test-faults                       50 killed runs, every bit of a checkpoint, longer comparisons with minigrid"
	@echo "make bench                             the speed tables of docs/benchmarks.md"
	@echo "make results                           docs/results: T-maze, MiniGrid; runs/results: the endless T-maze, Color-Cubes, too; many hours; may be stopped and continued"
	@echo "make docs                              the documentation as a site, in site/index.html"

train: $(STAMP)
	$(BIN)/python -m rmt_rl.train $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

contract: $(STAMP)
	$(BIN)/python experiments/reliability/contract.py $(ARGS)

test-faults: $(STAMP)
	RMT_RL_FAULTS=50 $(BIN)/python -m pytest tests/faults tests/envs/test_minigrid_memory.py tests/envs/test_minigrid_direct.py \
		tests/envs/test_minigrid_floors.py $(ARGS)

check: lint
	$(BIN)/python -m pytest -m "not slow and not thorough" -n 2 --dist worksteal

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python experiments/speed/bench_envs.py
	$(BIN)/python experiments/speed/bench_ppo.py
	$(BIN)/python experiments/speed/bench_rmt.py

# runs/results starts from the finished cells that are kept here
SIX := policy=rmt,trxl,gtrxl,lstm,gru,mlp params=110000 seeds=5 workers=2
CUBES := env=color-cubes env.phases=1 algo.num_envs=256 algo.rollout=32 steps=8000000 test.env.phases=3,10,30 metrics=phases
ENDLESS := env=tmaze-endless env.corridors=1,3,5,10 env.length=3,5,10 env.uniform=true,false algo.rollout=96 steps=1000000 \
	evaluate_every=25000 validation_episodes=400 until.success=1
CARRY := memory.carry=0.8 memory.ramp=best_success memory.ramp_start=0.8 memory.ramp_end=0.95
results: $(STAMP)
	test -e runs/results || (mkdir -p runs && cp -R experiments/results/comparisons runs/results)
	$(BIN)/python -m rmt_rl.compare env=tmaze env.min_length=5 env.length=80 algo.rollout=96 steps=1100000 $(SIX) \
		test.env.length=80,1000,100000 test.env.min_length=null out=runs/results/tmaze
	$(BIN)/python -m rmt_rl.compare env=minigrid-memory env.size=11 env.view=7 algo.num_envs=256 algo.rollout=64 \
		algo.entropy_coef=0.03 algo.gamma=0.995 steps=2500000 $(SIX) out=runs/results/minigrid-memory
	$(BIN)/python -m rmt_rl.compare $(ENDLESS) policy=rmt seeds=5 out=runs/results/tmaze-endless
	$(BIN)/python -m rmt_rl.compare env=tmaze-endless policy=lstm,gru,gtrxl,window,mlp env.corridors=10 env.length=10 \
		env.uniform=true algo.rollout=96 steps=1000000 evaluate_every=25000 validation_episodes=400 until.success=1 seeds=5 \
		out=runs/results/tmaze-endless-rivals
	$(BIN)/python -m rmt_rl.compare $(ENDLESS) policy=lstm,gru seeds=5 out=runs/results/tmaze-endless-recurrent
	$(BIN)/python -m rmt_rl.compare $(ENDLESS) policy=gtrxl,window seeds=1 out=runs/results/tmaze-endless-windows
	$(BIN)/python -m rmt_rl.compare $(CUBES) $(CARRY) policy=gru seeds=5 out=runs/results/color-cubes
	$(BIN)/python -m rmt_rl.compare $(CUBES) $(CARRY) policy=lstm seeds=2 out=runs/results/color-cubes-lstm
	$(BIN)/python -m rmt_rl.compare $(CUBES) $(CARRY) policy=rmt policy.write_cost=0 seeds=5 out=runs/results/color-cubes-rmt
	$(BIN)/python -m rmt_rl.compare $(CUBES) policy=mlp seeds=3 out=runs/results/color-cubes-mlp
	$(BIN)/python -m rmt_rl.compare report=runs/results/tmaze out=docs/results/tmaze
	$(BIN)/python -m rmt_rl.compare report=runs/results/minigrid-memory out=docs/results/minigrid-memory

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# uv does not read PIP_FIND_LINKS, so it is handed over under uv's name
$(STAMP): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
		UV_FIND_LINKS="$$PIP_FIND_LINKS" VIRTUAL_ENV="$(CURDIR)/$(VENV)" uv pip install -r requirements.txt && \
		UV_FIND_LINKS="$$PIP_FIND_LINKS" VIRTUAL_ENV="$(CURDIR)/$(VENV)" uv pip install --no-deps -e . ; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
