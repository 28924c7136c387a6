"""`python -m rmt_rl`: the list of commands."""

import sys

from rmt_rl import __version__

COMMANDS = {
    "train": "train a memory agent, e.g. python -m rmt_rl.train env=minigrid-memory algo=ppo",
    "evaluate": "play fresh episodes with a trained policy, e.g. python -m rmt_rl.evaluate policy=runs/<name>",
    "play": "draw some episodes into a GIF, e.g. python -m rmt_rl.play policy=runs/<name>",
    "export": "write one acting step as a program of tensors, e.g. python -m rmt_rl.export policy=runs/<name>",
    "envs.check": "say what is wrong with an environment, e.g. python -m rmt_rl.envs.check my_module:MyEnv",
}

if sys.argv[1:]:
    print(f"error: {sys.argv[1]}: commands are written with a dot, as in python -m rmt_rl.train", file=sys.stderr)
    sys.exit(2)
print(f"rmt_rl {__version__}: reinforcement learning for agents that must remember\n")
for name, text in COMMANDS.items():
    print(f"  python -m rmt_rl.{name:<10}  {text}")
print("\nEvery command explains its options with --help.")
