import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Timings and floating-point sums then do not depend on the machine's cores."""
    torch.set_num_threads(1)
