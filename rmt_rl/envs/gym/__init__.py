"""gymnasium environments behind the contract of `rmt_rl/envs/base.py`."""
