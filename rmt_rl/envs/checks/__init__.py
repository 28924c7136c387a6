"""Checks of the environment contract; `python -m rmt_rl.envs.check` runs them."""
