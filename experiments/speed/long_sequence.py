"""Memory and time of one gradient over a long sequence, with and without replay: `python experiments/speed/long_sequence.py`.

One sequence of random tokens, loss and backward pass of `rmt_rl.SequenceModel`, each in a process of its own. Growth of the peak
of resident memory, and CPU-seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

POLICIES = {"rmt": {"policy.segment": 64}, "mingru": {}, "deltanet": {}, "lstm": {}}


def measure(policy: str, length: int, replay: bool, layers: int | None = None) -> None:
    """Print one row of the table; with a number of layers, it has a column for them."""
    import torch

    from rmt_rl import SequenceModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    # in deep networks the layers of a segment are computed again one by one, too
    depth = {} if layers is None else {"policy.layers": layers, "policy.replay": replay}
    model = SequenceModel(256, policy, replay=replay, **POLICIES[policy], **depth)
    ids = torch.randint(0, 256, (1, length))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    loss, _ = model.loss(ids)
    loss.backward()
    seconds = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    name = policy if layers is None else f"{policy} | {layers}"
    print(f"| {name} | {length:,} | {'yes' if replay else 'no'} | {grown:,.0f} | {seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[8_192, 65_536])
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        policy, length, replay, *layers = arguments.one
        return measure(policy, int(length), replay == "yes", *map(int, layers))
    print("| memory | tokens | replay | MB | CPU s |\n|---|---|---|---|---|", flush=True)
    for policy in arguments.policies:
        for length in arguments.lengths:
            for replay in ("no", "yes"):
                words = [sys.executable, __file__, "--one", policy, str(length), replay]
                subprocess.run(words, check=True)
    return None


if __name__ == "__main__":
    main()
