"""The contract of backbones as checks; `python -m rmt_rl.policies.check` and the tests run them."""
