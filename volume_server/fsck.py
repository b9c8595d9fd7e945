"""`python -m volume_server.fsck FILE`: is a volume what was written, what lies in it, and what became of a needle?

It never writes, and works beside a running server. Neither the volume's salt nor a record's tag is ever printed: who
knows them can make bytes that pass for records.

Exit codes: 0 sound, 1 damage was found, 2 the file cannot be read or is not a volume.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from volume_server import record
from volume_server.inspection import Contents, Finding, Inspection, Item, NotAVolume, Report

SOUND, DAMAGED, UNREADABLE = 0, 1, 2
PROGRESS_EVERY_S = 0.25
_EVERY_ITEMS = 256
"""How many records go by between two looks at the clock."""

Each = Callable[[Item], object]


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a key may hold what the terminal's encoding cannot say
    try:
        with Inspection(options.file) as inspection:
            code = _run(inspection, options)
        sys.stdout.flush()
    except NotAVolume as error:
        return _refuse(options, str(error))
    except BrokenPipeError:
        # the reader has seen enough; nothing may be flushed into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREADABLE
    except OSError as error:
        return _refuse(options, f"{options.file} cannot be read to its end: {error.strerror}")
    return code


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m volume_server.fsck",
        description="Checks a volume file, its index and its state. Nothing is written; the server may be running.",
        epilog="exit codes: 0 sound, 1 damage was found, 2 the file cannot be read or is not a volume",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a volume file, such as DATA/0000000007.vol")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dump", action="store_true", help="print one line a record before the report")
    what.add_argument(
        "--needle", type=_needle, metavar="ID", help="explain one needle, by its id as in URLs and logs (hexadecimal)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: the report as one object; before it, with --dump or --needle, one object a line",
    )
    return parser.parse_args(arguments)


def _needle(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a needle: 1 to 16 hexadecimal digits, not all 0")
    return number


def _refuse(options: argparse.Namespace, reason: str) -> int:
    if options.json:
        _line(json.dumps({"file": str(options.file), "verdict": "unreadable", "reason": reason}))
    else:
        sys.stderr.write(f"fsck: {reason}\n")
    return UNREADABLE


def _run(inspection: Inspection, options: argparse.Namespace) -> int:
    progress = Progress(inspection.size_bytes)
    found: list[Item] = []

    def each(item: Item) -> None:
        progress.passed(item)
        if options.dump:
            progress.clear()
            _print_item(inspection, item, as_json=options.json)
        elif options.needle is not None and item.header is not None and item.header.needle == options.needle:
            found.append(item)

    if options.dump and not options.json:
        _line(f"{'offset':>14} {'kind':<9} {'needle':<16} {'meta':>6} {'data':>11} {'appended':<24} {'crc':<4} object")
    report = inspection.run(each)
    progress.clear()
    if options.needle is not None:
        _print_needle(inspection, report, options.needle, found, as_json=options.json)
    elif options.json:
        _line(json.dumps(report_as_json(report), ensure_ascii=False))
    else:
        _print_report(report)
    return DAMAGED if report.damage_count else SOUND


class Progress:
    """A line on standard error, where that is a terminal; it is gone in the end."""

    def __init__(self, total_bytes: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total_bytes = max(total_bytes, 1)
        self._shown = False
        self._active = self._stream.isatty()
        self._started_s = self._told_s = time.monotonic()
        self._count = 0

    def passed(self, item: Item) -> None:
        self._count += 1
        if not self._active or (self._count % _EVERY_ITEMS and item.size_bytes < 1 << 20):
            return
        now_s = time.monotonic()
        if now_s - self._told_s < PROGRESS_EVERY_S:
            return
        self._told_s = now_s
        done_bytes = item.offset + item.size_bytes
        share = min(done_bytes / self._total_bytes, 1)
        bar = "#" * int(share * 30)
        rate = done_bytes / (now_s - self._started_s) / 1e6
        self._stream.write(f"\r[{bar:<30}] {share:4.0%} of {self._total_bytes / (1 << 20):,.0f} MiB, {rate:,.0f} MB/s ")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


# -- one record ------------------------------------------------------------------------------------------------------


def _crc_of(item: Item) -> str:
    if item.header is None or item.header.kind == record.FILLER:
        return "-"
    return "ok" if item.sound else "BAD"


def item_as_json(inspection: Inspection, item: Item) -> dict[str, object]:
    """One line of `--dump --json`."""
    header = item.header
    if header is None:
        return {"offset": item.offset, "kind": item.kind, "size_bytes": item.size_bytes, "reason": item.reason}
    contents = inspection.contents(item)
    return {
        "offset": item.offset,
        "kind": item.kind,
        "size_bytes": item.size_bytes,
        "needle": f"{header.needle:016x}",
        "meta_bytes": header.meta_bytes,
        "data_bytes": header.data_bytes,
        "appended_ms": header.appended_ms,
        "crc": _crc_of(item),
        "reason": item.reason,
        "bucket": contents.bucket,
        "key": contents.key,
        "content_type": contents.content_type,
        "verdict": contents.verdict,
    }


def _print_item(inspection: Inspection, item: Item, *, as_json: bool) -> None:
    if as_json:
        _line(json.dumps(item_as_json(inspection, item), ensure_ascii=False))
        return
    header = item.header
    if header is None:
        _line(f"{item.offset:>14} {item.kind:<9} {'':<16} {'':>6} {item.size_bytes:>11} {item.reason}".rstrip())
        return
    contents = inspection.contents(item)
    _line(
        f"{item.offset:>14} {item.kind:<9} {header.needle:016x} {header.meta_bytes:>6} {header.data_bytes:>11} "
        f"{_time(header.appended_ms):<24} {_crc_of(item):<4} {_described(contents)}".rstrip()
    )


def _described(contents: Contents) -> str:
    if contents.verdict:
        return contents.verdict
    return " ".join(repr(part) for part in (contents.key, contents.content_type) if part)


# -- one needle ------------------------------------------------------------------------------------------------------


def _print_needle(inspection: Inspection, report: Report, needle: int, found: list[Item], *, as_json: bool) -> None:
    state, sentence = needle_state(inspection, report, needle, found)
    findings = [finding for finding in report.findings if finding.needle == needle]
    if as_json:
        for item in found:
            _line(json.dumps(item_as_json(inspection, item) | _meta_as_json(inspection, item), ensure_ascii=False))
        answer = {
            "file": str(report.path),
            "needle": f"{needle:016x}",
            "state": state,
            "explanation": sentence,
            "findings": [_finding_as_json(finding) for finding in findings],
        }
        _line(json.dumps(answer, ensure_ascii=False))
        return
    _line(f"needle {needle:016x} of volume {report.superblock.volume}: {sentence}")
    for item in found:
        _print_record_of(inspection, item)
    for finding in findings:
        _print_finding(finding)
    if other := report.damage_count - sum(finding.is_damage for finding in findings):
        _line(f"The volume has other damage ({other:,}): run fsck without --needle.")


def needle_state(inspection: Inspection, report: Report, needle: int, found: list[Item]) -> tuple[str, str]:
    """("alive", "dead", "damaged", "aborted", "lost" or "unknown", a sentence) of a needle with these records."""
    tombstones = [item for item in found if item.kind == "tombstone"]
    live = [item for item in found if item.kind == "live"]
    if tombstones:
        verdict = inspection.contents(tombstones[0]).verdict
        why = f"its PUT was refused: {verdict}" if verdict else "it was deleted"
        return "dead", f"it is dead; {why}."
    if any(item.sound for item in live):
        return "alive", "it is alive."
    if live:
        return "damaged", "it is alive, and its only record is damaged."
    if any(finding.needle == needle for finding in report.findings):
        return "lost", "no record of it is found, though the index knows it."
    if found:
        return "aborted", "an upload of it was begun and never came to an end. Its id is free."
    return "unknown", "no record of it stands here: it was never stored in this volume, or was compacted away."


def _print_record_of(inspection: Inspection, item: Item) -> None:
    header = item.header
    assert header is not None
    crc = {"ok": "CRC right", "BAD": "CRC WRONG", "-": "nothing in it is looked at"}[_crc_of(item)]
    _line(
        f"  {item.kind} at {item.offset:,}: {item.size_bytes:,} bytes, of them {header.meta_bytes:,} of meta and "
        f"{header.data_bytes:,} of data; {crc}; appended {_time(header.appended_ms)}"
    )
    contents = inspection.contents(item)
    if contents.verdict:
        _line(f"    verdict: {contents.verdict}")
    if contents.meta is None:
        return
    values: dict[str, object] = {
        "bucket": contents.bucket,
        "key": contents.key,
        "content type": contents.content_type,
        "metadata": contents.meta.metadata,
        "If-Match": contents.meta.if_match,
        "If-None-Match": "*" if contents.meta.if_none_match else "",
    }
    for name, value in values.items():
        if value:
            _line(f"    {name}: {value!r}")
    intent = contents.intent
    if intent is None:
        _line("    its intent does not decode")
        return
    _line(
        f"    lease of {intent.count:,} from {intent.first:016x} on, epoch {intent.epoch}, up to {intent.max_bytes:,} "
        f"bytes each, bucket {intent.bucket_id}, API key {intent.api_key} generation {intent.generation}, "
        f"until {_time(intent.expires_at * 1000)}"
    )
    if intent.upload is not None:
        _line(
            f"    chunk {intent.chunk_index} of {intent.chunk_count} of upload {intent.upload}, "
            f"{intent.total_bytes:,} bytes in all"
        )


def _meta_as_json(inspection: Inspection, item: Item) -> dict[str, object]:
    contents = inspection.contents(item)
    if contents.meta is None:
        return {"meta": None, "intent": None}
    meta = asdict(contents.meta)
    del meta["intent"]
    intent = asdict(contents.intent) if contents.intent else None
    if intent is not None:
        intent |= {"first": f"{intent['first']:016x}", "upload": str(intent["upload"]) if intent["upload"] else None}
    return {"meta": meta, "intent": intent}


# -- the report ------------------------------------------------------------------------------------------------------


def report_as_json(report: Report) -> dict[str, object]:
    """The object that `--json` prints. `verdict` is "sound" or "damaged"."""
    superblock, figures = report.superblock, report.figures
    return {
        "file": str(report.path),
        "verdict": "damaged" if report.damage_count else "sound",
        "volume": superblock.volume,
        "revision": superblock.revision,
        "created_ms": superblock.created_ms,
        "size_bytes": report.size_bytes,
        "records": report.records,
        "live_count": figures.live_count,
        "tombstone_count": figures.tombstone_count,
        "garbage_bytes": figures.garbage_bytes,
        "state": None if report.state is None else asdict(report.state),
        "index": report.index,
        "damage_count": report.damage_count,
        "findings": [_finding_as_json(finding) for finding in report.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, object]:
    needle = None if finding.needle is None else f"{finding.needle:016x}"
    return {
        "damage": finding.is_damage,
        "offset": finding.offset,
        "size_bytes": finding.size_bytes,
        "needle": needle,
        "what": finding.what,
        "advice": finding.advice,
    }


def _print_report(report: Report) -> None:
    superblock, figures, records = report.superblock, report.figures, report.records
    rows = {
        "volume": f"{superblock.volume}, revision {superblock.revision}, made {_time(superblock.created_ms)}, "
        f"{report.size_bytes:,} bytes",
        "records": ", ".join(f"{count:,} {kind}" for kind, count in records.items()),
        "needles": f"{figures.live_count:,} alive, {figures.tombstone_count:,} dead",
        "garbage": f"{figures.garbage_bytes:,} bytes",
        "index": report.index or "not compared",
    }
    if report.state is not None:
        rows["state"] = f"epoch {report.state.epoch}, {'open' if report.state.sealed is None else 'sealed'}"
    for name, value in rows.items():
        _line(f"{name + ':':<10}{value}")
    for finding in report.findings:
        _print_finding(finding)
    if report.untold_count:
        _line(f"… and {report.untold_count:,} more that are not told one by one.")
    _line(f"DAMAGED ({report.damage_count:,} found)" if report.damage_count else "sound")


def _print_finding(finding: Finding) -> None:
    where = "" if finding.offset is None else f" at {finding.offset:,}"
    if finding.size_bytes:
        where += f", {finding.size_bytes:,} bytes"
    _line(f"{'DAMAGE' if finding.is_damage else 'note'}{where}: {finding.what}")
    if finding.advice:
        _line(f"    {finding.advice}")


def _time(unix_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"  # no calendar reaches so far
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
