"""End a run politely: note the signal, and stop after the step."""

import signal

POLITE = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """A context in which SIGTERM and Ctrl-C only set `came`; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.came: signal.Signals | None = None

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self._note) for number in POLITE}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = self.came or signal.Signals(number)
