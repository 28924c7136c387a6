import gc

import pytest
import torch

from rmt_rl.config.registry import GROUPS


def pytest_collection_finish():
    """Imported modules and collected tests stay until the end: without them in every search for garbage, an eighth less time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Timings and floating-point sums then do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def registrations_end_with_their_module():
    """Names that a test module registers, such as environments given as objects, are unknown to the next one."""
    before = {group: dict(parts) for group, parts in GROUPS.items()}
    yield
    for group, parts in GROUPS.items():
        parts.clear()
        parts.update(before[group])
