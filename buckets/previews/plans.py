"""Which way an object is shown, and how much of it is read for that. Known from its name, type and size alone."""

from dataclasses import dataclass
from enum import StrEnum

KIB, MIB = 1 << 10, 1 << 20


class Kind(StrEnum):
    """What an object seems to be. Only its first bytes tell TEXT from BINARY; until then it is UNKNOWN."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    PDF = "pdf"
    MARKDOWN = "markdown"
    TABLE = "table"
    JSON = "json"
    CODE = "code"
    TEXT = "text"
    ZIP = "zip"
    TAR = "tar"
    """Or anything that gzip, bzip2 or xz packed."""
    UNKNOWN = "unknown"


MEDIA = frozenset({Kind.IMAGE, Kind.AUDIO, Kind.VIDEO})
"""What browsers show by elements of their own, which run nothing: a script in an SVG image is dead."""

_ONE_WAY = frozenset({Kind.TEXT, Kind.UNKNOWN})

_MEDIA_TYPES = {
    "png": "image/png",
    "apng": "image/apng",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "ico": "image/x-icon",
    "svg": "image/svg+xml",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "weba": "audio/webm",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/mp4",  # most are; browsers refuse video/quicktime by its name
    "webm": "video/webm",
    "ogv": "video/ogg",
    "pdf": "application/pdf",
}
"""By the ending of the name: what is said to browsers, whatever the object itself is said to be."""

LANGUAGES = {
    "asm": "nasm",
    "bash": "bash",
    "bat": "batch",
    "c": "c",
    "cc": "cpp",
    "cfg": "ini",
    "clj": "clojure",
    "cmake": "cmake",
    "conf": "ini",
    "cpp": "cpp",
    "cs": "csharp",
    "css": "css",
    "dart": "dart",
    "diff": "diff",
    "dockerfile": "docker",
    "erl": "erlang",
    "ex": "elixir",
    "exs": "elixir",
    "f90": "fortran",
    "fs": "fsharp",
    "go": "go",
    "gradle": "groovy",
    "graphql": "graphql",
    "groovy": "groovy",
    "h": "c",
    "hpp": "cpp",
    "hs": "haskell",
    "htm": "html",
    "html": "html",
    "ini": "ini",
    "java": "java",
    "jl": "julia",
    "js": "javascript",
    "json": "json",
    "jsx": "jsx",
    "kt": "kotlin",
    "less": "less",
    "lua": "lua",
    "makefile": "make",
    "mjs": "javascript",
    "mk": "make",
    "nix": "nix",
    "patch": "diff",
    "php": "php",
    "pl": "perl",
    "properties": "properties",
    "proto": "protobuf",
    "ps1": "powershell",
    "py": "python",
    "pyi": "python",
    "r": "r",
    "rb": "ruby",
    "rs": "rust",
    "rst": "rst",
    "sass": "sass",
    "scala": "scala",
    "scss": "scss",
    "sh": "bash",
    "sql": "sql",
    "svg": "xml",
    "swift": "swift",
    "tex": "tex",
    "tf": "terraform",
    "toml": "toml",
    "ts": "typescript",
    "tsx": "tsx",
    "vim": "vim",
    "vue": "html",
    "xhtml": "html",
    "xml": "xml",
    "xsl": "xml",
    "yaml": "yaml",
    "yml": "yaml",
    "zig": "zig",
    "zsh": "bash",
}
"""By the ending of the name: what Pygments calls the language. A list of our own, so that the lexers that run over
strangers' bytes are these."""

_ENDINGS = {
    "md": Kind.MARKDOWN,
    "markdown": Kind.MARKDOWN,
    "csv": Kind.TABLE,
    "tsv": Kind.TABLE,
    "tab": Kind.TABLE,
    "json": Kind.JSON,
    "geojson": Kind.JSON,
    "webmanifest": Kind.JSON,
    "ipynb": Kind.JSON,
    "jsonl": Kind.JSON,
    "ndjson": Kind.JSON,
    "txt": Kind.TEXT,
    "text": Kind.TEXT,
    "log": Kind.TEXT,
    "zip": Kind.ZIP,
    "jar": Kind.ZIP,
    "whl": Kind.ZIP,
    "epub": Kind.ZIP,
    "apk": Kind.ZIP,
    "docx": Kind.ZIP,
    "xlsx": Kind.ZIP,
    "pptx": Kind.ZIP,
    "odt": Kind.ZIP,
    "ods": Kind.ZIP,
    "tar": Kind.TAR,
    "tgz": Kind.TAR,
    "tbz2": Kind.TAR,
    "txz": Kind.TAR,
    "gz": Kind.TAR,
    "bz2": Kind.TAR,
    "xz": Kind.TAR,
}
_TYPES = {
    "text/markdown": Kind.MARKDOWN,
    "text/csv": Kind.TABLE,
    "text/tab-separated-values": Kind.TABLE,
    "application/json": Kind.JSON,
    "application/x-ndjson": Kind.JSON,
    "application/zip": Kind.ZIP,
    "application/x-tar": Kind.TAR,
    "application/gzip": Kind.TAR,
    "text/plain": Kind.TEXT,
}

_WINDOWS = {
    # A parser's worst megabyte takes it half a minute, its worst 64 KiB two seconds.
    Kind.MARKDOWN: (32 * KIB, 64 * KIB),
    Kind.TABLE: (256 * KIB, MIB),
    Kind.JSON: (256 * KIB, MIB),
    Kind.CODE: (128 * KIB, 512 * KIB),
    Kind.TAR: (MIB, 8 * MIB),
}
_TEXT_WINDOWS = (128 * KIB, 512 * KIB, 2 * MIB)
_SHORT, _SHORT_TREE = 800, 100
MAX_IMAGE_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Plan:
    """How an object is to be shown."""

    kind: Kind
    is_raw: bool
    size: int
    window: int
    """So many bytes at most are read."""
    more: int | None
    """The next larger window, where there is more to read and a larger one."""
    media_type: str = ""
    """What browsers are told that it is: of images, sound, films and PDF."""
    language: str = ""

    @property
    def is_cut(self) -> bool:
        return self.size > self.window

    @property
    def is_long(self) -> bool:
        """Whether what is shown takes much room, as far as its size tells."""
        return self.size > (_SHORT_TREE if self.kind == Kind.JSON else _SHORT)

    @property
    def has_two_ways(self) -> bool:
        """Whether formatted and raw are two things."""
        return self.kind not in _ONE_WAY

    @property
    def is_too_large(self) -> bool:
        """Browsers load all of an image; of a film or a song only what is played."""
        return self.kind == Kind.IMAGE and not self.is_raw and self.size > MAX_IMAGE_BYTES

    @property
    def element(self) -> str:
        """What it is shown in: `image`, `audio` and `video` in elements of theirs, `pdf` and `text` in frames."""
        is_own = (self.kind in MEDIA or self.kind == Kind.PDF) and not self.is_raw and not self.is_too_large
        return str(self.kind) if is_own and self.size else "text"


def plan(*, key: str, content_type: str, size: int, way: str = "", window: str = "") -> Plan:
    """``way``: `raw`, or anything else for formatted; ``window``: bytes, as the query has them.

    A window that is none of ours counts as the smallest.
    """
    ending = _ending(key)
    plain_type = content_type.partition(";")[0].strip().lower()
    media_type = _MEDIA_TYPES.get(ending) or (plain_type if plain_type in _MEDIA_TYPES.values() else "")
    kind = _kind(ending, plain_type, media_type)
    is_raw = way == "raw" and kind not in _ONE_WAY
    # A ZIP's directory is at its end, and read from there as far as it is shown.
    windows = _TEXT_WINDOWS if is_raw else (size,) if kind == Kind.ZIP else _WINDOWS.get(kind, _TEXT_WINDOWS)
    chosen = next((one for one in windows if str(one) == window), windows[0])
    return Plan(
        kind=kind,
        is_raw=is_raw,
        size=size,
        window=chosen,
        more=next((one for one in windows if one > chosen), None) if size > chosen else None,
        media_type=media_type,
        language=LANGUAGES.get(ending, ""),
    )


def _kind(ending: str, plain_type: str, media_type: str) -> Kind:
    if media_type == "application/pdf":
        return Kind.PDF
    if media_type:
        return Kind(media_type.partition("/")[0])
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if ending in LANGUAGES:
        return Kind.CODE
    return _TYPES.get(plain_type, Kind.TEXT if plain_type.startswith("text/") else Kind.UNKNOWN)


def _ending(key: str) -> str:
    """Behind the last dot of the name; all of a name without dots, such as `Makefile`."""
    return key.rpartition("/")[2].rpartition(".")[2].lower()
