"""Names that objects have inside an archive: any system can unpack them, and none leads out of its folder.

Most keys are names as they are. A part of a path that no file system takes, or that leads elsewhere, is changed and
gets a mark made of the key up to its end: so no two keys ever become one name, those of a folder stay together, and
nobody has to remember the names of a million. Pure module.
"""

import hashlib
import re

from keys.printable import is_unseen

MAX_PART_BYTES = 200
"""Of one part of a path. File systems take 255; the mark, and what an unpacker may add, fit in besides."""

_DRIVE = re.compile(r"[A-Za-z]:")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}\Z")


class ArchiveNames:
    """Gives each key its name. They come in byte order, in which a file is before the folder of the same name:

    a        a file
    a/b      is in a folder of that name, and no file system has both: it becomes a~(mark)/b
    """

    def __init__(self, base: str) -> None:
        """``base``: what most keys begin with, and their names do not."""
        self._base = base
        self._above: list[str] = []
        """Of the keys so far those that the latest one begins with, itself included."""

    def name(self, key: str, *, is_empty: bool) -> str:
        """Any key gets a name. An empty object whose key ends with a slash is a folder."""
        while self._above and not key.startswith(self._above[-1]):
            self._above.pop()
        files = {above for above in self._above if key.startswith(f"{above}/")}
        self._above.append(key)
        end = len(self._base) if key.startswith(self._base) and key != self._base else 0
        is_folder = is_empty and key.endswith("/")
        names = []
        for part in key[end : -1 if is_folder else None].split("/"):
            end += len(part)
            name = _safe(part)
            if name != part or key[:end] in files:
                # With the slash behind a folder, so that a file of its name has another mark.
                name = _marked(name, key[: end + 1])
            names.append(name)
            end += 1
        return "/".join(names) + ("/" if is_folder else "")


def _safe(part: str) -> str:
    text = "".join("_" if _is_unsafe(char) else char for char in part)
    if text in ("", ".", ".."):
        text = "_"
    if _DRIVE.match(text):
        text = f"{text[0]}_{text[2:]}"
    if len(text.encode()) <= MAX_PART_BYTES:
        return text
    suffix = _suffix(text)
    return text.encode()[: MAX_PART_BYTES - len(suffix)].decode(errors="ignore") + suffix


def _is_unsafe(char: str) -> bool:
    return char == "\\" or is_unseen(char)


def _marked(name: str, key: str) -> str:
    mark = hashlib.blake2b(key.encode(), digest_size=5).hexdigest()
    suffix = _suffix(name)
    return f"{name[: len(name) - len(suffix)]}~{mark}{suffix}"


def _suffix(name: str) -> str:
    found = _SUFFIX.search(name, 1)
    return found.group() if found else ""
