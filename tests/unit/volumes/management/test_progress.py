import io

import pytest
from django.core.management.base import OutputWrapper

from volumes.management.progress import Board, bar, percent, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (16 << 30, "16.0 GiB"),
        ((1 << 53) - 1, "8.0 PiB"),
        (1 << 70, "1048576.0 PiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("done", "total", "share"), [(0, 10, 0), (5, 10, 50), (11, 10, 100), (0, 0, 100)])
def test_percent(done: int, total: int, share: int) -> None:
    assert percent(done, total) == share
    assert bar(done, total).endswith(f"{share} %")
    assert bar(done, total).count("#") == 24 * share // 100


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_drawn_over_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "11")
    terminal = Terminal()
    board = Board(OutputWrapper(terminal))
    board.draw(["one", "two, which is longer than the terminal is wide"])
    board.draw(["three"])
    board.say("stays")
    board.draw(["four"])
    board.clear()
    board.clear()
    assert terminal.getvalue() == (
        "one\ntwo, which\n"
        "\x1b[2F\x1b[Jthree\n"
        "\x1b[1F\x1b[Jstays\n"
        "four\n"
        "\x1b[1F\x1b[J"
    )  # fmt: skip


def test_nothing_is_drawn_elsewhere() -> None:
    stream = io.StringIO()
    board = Board(OutputWrapper(stream))
    board.draw(["one"])
    board.say("stays")
    board.clear()
    assert stream.getvalue() == "stays\n"
