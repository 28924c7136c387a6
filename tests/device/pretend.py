"""A GPU that is not there. Tensors on "pretend:0" are computed on the CPU, refuse CPU tensors and generators beside them, and
every place at which the host would have to wait for the device is counted.

So code takes its branches for accelerators (`device.type != "cpu"`) with real numbers. It registers torch's PrivateUse1, once for
a process: `test_pretended_device.py` starts a process of its own.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from cells import KERNELS
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rmt_rl.common import rng

NAME = "pretend"


class _Module(backend_registration._DummyBackendModule):
    """What torch asks a device for, such as in torch.utils.checkpoint."""

    device = staticmethod(lambda index: contextlib.nullcontext())
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: torch.set_rng_state(state))
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    synchronize = staticmethod(lambda device=None: None)


def register() -> torch.device:
    """Make the device known to torch and to our random streams."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    usual = rng.global_generator
    own = _generator(0, "global", NAME)
    rng.generator = _generator
    rng.global_generator = lambda device: own if device.type == NAME else usual(device)
    return torch.device(f"{NAME}:0")


#: Generators of the device, by their address.
_generators: dict[int, torch.Generator] = {}


def _generator(run_seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    there = str(device).startswith(NAME)
    made = torch.Generator("cpu" if there else device).manual_seed(rng.seed(run_seed, name))
    if there:
        _generators[made._cdata] = made
    return made


aten = torch.ops.aten
#: Operations after which the host needs a number or a size from the device.
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.unique_consecutive,
    aten._unique2,
    aten.unique_dim,
    aten.equal,
    aten.repeat_interleave,
    aten.bincount,
}
INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
COPIES = {aten._to_copy, aten.copy_, aten.copy}


class There(torch.Tensor):
    """A tensor on the device; `here` has its numbers."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, here.size(), dtype=here.dtype, device=f"{NAME}:0", **layout)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Pretend.now.run(op, args, kwargs or {})

    def tolist(self) -> Any:
        Pretend.now.wait("tolist")
        return self.here.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here})"


def here(x: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor, wherever it is."""
    return x.here if isinstance(x, There) else x


class Pretend(TorchDispatchMode):
    """Inside, tensors on the device work. waits: by what and where."""

    now: Pretend
    waits: collections.Counter[tuple[str, str]]

    def __enter__(self) -> Pretend:
        Pretend.now, self.waits = self, collections.Counter()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*error)

    @contextlib.contextmanager
    def count(self) -> Iterator[collections.Counter[tuple[str, str]]]:
        """The waits inside."""
        before, self.waits = self.waits, collections.Counter()
        yield self.waits
        self.waits = before

    def wait(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "/rmt_rl/" in f.filename]
        places = [f"{f.filename.split('/rmt_rl/')[-1]}:{f.lineno}" for f in frames]
        self.waits[what, " < ".join(places[:-3:-1])] += 1

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = any(isinstance(x, There) for x in tree_leaves((args, kwargs))) or NAME in str(kwargs.get("device"))
        return self.run(op, args, kwargs) if there else op(*args, **kwargs)

    def run(self, op: Any, args: Any, kwargs: Any) -> Any:
        packet = op._overloadpacket
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        to_cpu = "cpu" in str(kwargs.get("device")) or (packet is aten.copy_ and not isinstance(args[0], There))
        self._check(op, packet, args, kwargs, tensors, to_cpu)
        if packet in WAITS or (packet in INDEX and any(i is not None and i.dtype is torch.bool for i in args[1])):
            self.wait(str(op))
        unwrapped = {k: torch.device("cpu") if k == "device" else tree_map(here, v) for k, v in kwargs.items()}
        unwrapped.pop("pin_memory", None)
        if packet is aten._conj:  # a lazy conjugate is a flag of the tensor, which the one inside would not have here
            return There(torch.conj_physical(here(args[0])))
        out = KERNELS.get(packet, op)(*tree_map(here, args), **unwrapped)
        if to_cpu:
            return out
        in_place = next((x for x in tensors if isinstance(x, There) and x.here is out), None)
        return tree_map(lambda x: There(x) if isinstance(x, torch.Tensor) else x, out) if in_place is None else in_place

    def _check(self, op: Any, packet: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], to_cpu: bool) -> None:
        """What a real device refuses, and copies, for which the host waits."""
        if packet in COPIES:
            source = args[0] if packet is aten._to_copy else args[1]
            if isinstance(source, There) is to_cpu:
                self.wait("copy to the host" if to_cpu else "copy to the device")
        else:
            for x in tensors:
                number = x.dim() == 0 and (torch.Tag.pointwise in op.tags or packet in (aten.where, aten.masked_fill_))
                if isinstance(x, There) or number or packet in (aten.lift_fresh, aten.lift_fresh_copy):
                    continue
                if packet not in INDEX or x is args[0]:
                    raise RuntimeError(f"{op}: tensors on {[str(t.device) for t in tensors]}")
                self.wait("index from the host")
        generator = kwargs.get("generator")
        if generator is not None and not to_cpu and generator._cdata not in _generators:
            raise RuntimeError(f"{op}: a generator of the CPU for a tensor on {NAME}:0")
