"""A polite end: a signal is noted, and the loop ends after its step."""

import signal
import threading

POLITE = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """While it is entered, SIGTERM and Ctrl-C set `came` in place of ending the process; a second
    Ctrl-C ends it at once.
    """

    def __init__(self):
        self.came: signal.Signals | None = None

    def __enter__(self) -> "StopSignal":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in POLITE}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = self.came or signal.Signals(number)  # what a caller is told of
