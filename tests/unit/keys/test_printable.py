"""Texts that an eye could not tell apart."""

import pytest

from keys.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("photos/2024/naïve name.jpg", "photos/2024/naïve name.jpg"),
        ("漢字/é", "漢字/é"),
        (" ", r"\x20"),
        ("   ", r"\x20\x20\x20"),
        (" a  b ", r"\x20a \x20b\x20"),
        ("a\tb\nc\x1b[2J\x7f", r"a\tb\nc\x1b[2J\x7f"),
        ("no\u00a0break\u200bno\u202ewidth", r"no\xa0break\u200bno\u202ewidth"),
        (r"\x20", r"\\x20"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
