"""Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 during training."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from rmt_rl.common.errors import Interrupted, Stopped

#: A second one of these ends the process at once.
URGENT = (signal.SIGINT, signal.SIGTERM)


class OnSignal:
    """Ctrl-C or SIGTERM: stop at the next border of steps or minibatches; a second one exits at once. SIGUSR2, with which Slurm
    announces the end of a job, before or after a SIGTERM, stops too, and does not count as one of the two. SIGUSR1: write a
    checkpoint after this update.

    patient: leave ending the process to torchrun, which passes signals on, so that one key arrives twice; and nothing is left
    before its end, because other processes are waiting for it.

    Outside the main thread, where Python allows no signal handlers, it does nothing. The previous handlers are restored at
    the end.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        #: The signal that requested the stop.
        self.stop: int | None = None
        self._checkpoint = self._active = False

    def check_stop(self) -> None:
        """Raises Interrupted where a stop was requested; called where an update, which may take minutes, can be left.

        After the end it does nothing: the last validation of RATE uses the same code.
        """
        if self._active and self.stop is not None and not self.patient:
            raise Interrupted

    def checkpoint_requested(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        requested, self._checkpoint = self._checkpoint, False
        return requested

    def __enter__(self) -> OnSignal:
        handled = [*URGENT, *([signal.SIGUSR1, signal.SIGUSR2] if hasattr(signal, "SIGUSR1") else [])]
        main = threading.current_thread() is threading.main_thread()
        self._active = True
        self._before = {s: signal.signal(s, self._handle) for s in handled} if main else {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGUSR1", None):
            self._checkpoint = True
        elif self.stop not in URGENT:
            if self.stop is None:
                how = "after this update" if self.patient else "press again to exit at once"
                print(f"\nstopping, then saving; {how}", flush=True)
            self.stop = number
        elif number in URGENT and not self.patient:
            raise Stopped(128 + number)
