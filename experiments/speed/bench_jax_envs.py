"""Steps per CPU-second of XLand-MiniGrid and gymnax, compiled for one core of a CPU, to compare with bench_envs.py.

    pip install gymnax xminigrid "jax[cpu]" six     # in a separate virtual environment
    taskset -c 0 python experiments/speed/bench_jax_envs.py

A call makes `CHUNK` steps of all rows in one compiled loop, with random actions drawn beforehand and autoresets inside,
as users of these libraries write it. Compilation is not counted. Prints a markdown table: medians of steps per
CPU-second.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import statistics
import sys
import time

try:
    import gymnax
    import jax
    import xminigrid
except ModuleNotFoundError as error:
    sys.exit(f"this script needs the package {error.name}, which is not installed; pip install gymnax xminigrid jax")

CHUNK = 64
ROUNDS = 5
SECONDS = 1.0
ROWS = (64, 1024, 8192)


def xland(name, rows):
    env, params = xminigrid.make(name)
    from xminigrid.wrappers import GymAutoResetWrapper

    env = GymAutoResetWrapper(env)
    begin = jax.vmap(env.reset, (None, 0))(params, jax.random.split(jax.random.key(0), rows))
    actions = jax.random.randint(jax.random.key(1), (CHUNK, rows), 0, env.num_actions(params))

    @jax.jit
    def run(state, key):
        def step(state, action):
            state = jax.vmap(env.step, (None, 0, 0))(params, state, action)
            return state, state.reward.sum() + state.observation.sum()

        return jax.lax.scan(step, state, actions)

    return run, begin


def gymnax_env(name, rows):
    env, params = gymnax.make(name)
    _, begin = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), rows), params)
    actions = jax.random.randint(jax.random.key(1), (CHUNK, rows), 0, env.num_actions)

    @jax.jit
    def run(state, key):
        def step(state, inputs):
            action, key = inputs
            obs, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key, rows), state, action, params
            )
            return state, reward.sum() + obs.sum()

        return jax.lax.scan(step, state, (actions, jax.random.split(key, CHUNK)))

    return run, begin


def rate(run, state, rows):
    key = jax.random.key(2)
    state, out = run(state, key)
    jax.block_until_ready(out)
    rates = []
    for _ in range(ROUNDS):
        steps, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < SECONDS:
            key, now = jax.random.split(key)
            state, out = run(state, now)
            jax.block_until_ready(out)
            steps += CHUNK * rows
        rates.append(steps / spent)
    return statistics.median(rates)


print(f"jax {jax.__version__}, median of {ROUNDS} rounds\n")
print(f"| environment | {' | '.join(f'{n:,} rows' for n in ROWS)} |\n|{'---|' * (len(ROWS) + 1)}")
for maker, name in (
    (xland, "MiniGrid-MemoryS16"),
    (xland, "MiniGrid-DoorKey-8x8"),
    (gymnax_env, "MemoryChain-bsuite"),
    (gymnax_env, "BernoulliBandit-misc"),
):
    print(f"| {name} | {' | '.join(f'{rate(*maker(name, n), n):,.0f}' for n in ROWS)} |", flush=True)
