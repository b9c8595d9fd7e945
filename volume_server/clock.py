"""Time by the master's clock: this machine's own, corrected by what the master's answers say."""

import time


class Clock:
    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def now_s(self) -> float:
        return time.time() + self.offset_ms / 1000

    def correct(self, master_ms: int, *, local_ms: int | None = None) -> None:
        """``local_ms``: this machine's clock when the master's showed ``master_ms`` (default: now)."""
        self.offset_ms = master_ms - (time.time_ns() // 1_000_000 if local_ms is None else local_ms)
