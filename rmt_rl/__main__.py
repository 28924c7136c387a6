"""`python -m rmt_rl`: the list of commands."""

import sys

from rmt_rl import __version__

COMMANDS = {
    "train": "train a memory agent, e.g. python -m rmt_rl.train env=minigrid-memory algo=ppo",
    "evaluate": "score a trained policy on new episodes, e.g. python -m rmt_rl.evaluate policy=runs/<name>",
    "play": "draw episodes into a GIF, e.g. python -m rmt_rl.play policy=runs/<name>",
    "collect": "record episodes as a Minari dataset, e.g. python -m rmt_rl.collect env=tmaze out=tmaze/oracle-v0",
    "export": "write one acting step as a program of tensors, e.g. python -m rmt_rl.export policy=runs/<name>",
    "envs.check": "check an environment, e.g. python -m rmt_rl.envs.check my_module:MyEnv",
    "policies.check": "check a backbone, e.g. python -m rmt_rl.policies.check my_module:MyMemory",
}


def main() -> int:
    if sys.argv[1:] and not {"-h", "--help"} & set(sys.argv[1:]):
        print(f"error: {sys.argv[1]}: commands are written with a dot, as in python -m rmt_rl.train", file=sys.stderr)
        return 2
    print(f"rmt_rl {__version__}: reinforcement learning for agents that must remember\n")
    for name, text in COMMANDS.items():
        print(f"  python -m rmt_rl.{name:<14}  {text}")
    print("\nEvery command explains its options with --help.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
