import importlib.machinery
import sys
import types

import pytest


class Calls(types.ModuleType):
    """Stands for the package wandb, which needs a server: notes what it is given."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.inits, self.logged, self.exit_codes, self.refuses = [], [], [], False

    def Video(self, path, format):
        return ("video", path, format)

    def init(self, **given):
        if self.refuses:
            raise self.Error("permission denied:\n  no such entity")
        self.inits.append(given)
        return self

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self, exit_code=None):
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", calls := Calls())
    return calls
