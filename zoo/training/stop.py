"""A polite end: SIGTERM is noted, and the loop ends after its step."""

import signal
import threading


class StopSignal:
    """While it is entered, SIGTERM sets `came` in place of ending the process."""

    def __init__(self):
        self.came = False

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if hasattr(self, "before"):
            signal.signal(signal.SIGTERM, self.before)

    def _note(self, *_) -> None:
        self.came = True
