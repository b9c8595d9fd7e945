"""Bytes as people look at them: where, in hexadecimal, and what of it is ASCII."""

ROW = 16
_DOTTED = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def hex_rows(data: bytes) -> str:
    """Lines such as `00000010  7f 45 4c 46 …  |.ELF…|`."""
    return "\n".join(_row(at, data[at : at + ROW]) for at in range(0, len(data), ROW))


def _row(at: int, part: bytes) -> str:
    first, second = part[: ROW // 2].hex(" "), part[ROW // 2 :].hex(" ")
    return f"{at:08x}  {first:<23}  {second:<23}  |{part.translate(_DOTTED).decode('ascii')}|"
