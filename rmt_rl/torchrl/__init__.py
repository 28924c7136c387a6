"""Environments and policies of rmt_rl as parts of torchrl, and torchrl environments as ours. Needs the extra `torchrl`.

`rmt_rl.train` does not use this package: stepping a small network through torchrl's collector and losses costs several times
what the network itself costs (docs/benchmarks.md).
"""

from rmt_rl.torchrl.envs import FromTorchRL, TorchRLEnv
from rmt_rl.torchrl.policies import TorchRLPolicy

__all__ = ["FromTorchRL", "TorchRLEnv", "TorchRLPolicy"]
