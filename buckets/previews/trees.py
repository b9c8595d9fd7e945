"""JSON as a tree that opens and closes without a script."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from buckets.previews.text import visible

MAX_NODES = 3_000
MAX_DEPTH = 40
MAX_STRING = 2_000
_OPEN_NODES = 40
"""Objects and lists with no more in them stand open, to a depth of two."""
_OPEN = '<details open><summary>{}<span class="c">{}</span></summary><div class="inside">{}</div></details>'
_CLOSED = _OPEN.replace(" open", "", 1)


class _Number(str):
    """A number as it was written: `1.10` and `1e999` stay what they are."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """An object, with every member that it has, be its name there twice."""


@dataclass(slots=True)
class _Budget:
    nodes: int = MAX_NODES
    is_whole: bool = True


def json_tree(text: str, *, is_cut: bool = False) -> tuple[SafeString, bool] | None:
    """The tree, and whether all is in it; None for what is no JSON. Several values, one a line, are one list.

    ``is_cut``: the last line may be a part of one.
    """
    value = _parse(text[: text.rfind("\n") + 1] if is_cut else text)
    if value is None:
        return None
    budget = _Budget()
    return _node(None, value[0], 0, budget), budget.is_whole and not is_cut


def _parse(text: str) -> tuple[Any] | None:
    try:
        return (_load(text),)
    except RecursionError:
        return None
    except ValueError:
        pass
    values: list[Any] = []
    for line in text.split("\n"):
        if len(values) > MAX_NODES:
            break
        if line.strip():
            try:
                values.append(_load(line))
            except (ValueError, RecursionError):
                return None
    return (values,) if len(values) > 1 else None


def _load(text: str) -> Any:
    return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_Members)


def _node(name: str | None, value: Any, depth: int, budget: _Budget) -> SafeString:
    label = "" if name is None else format_html('<span class="name">{}</span>: ', _short(name))
    budget.nodes -= 1
    if not isinstance(value, list):
        return format_html('<div class="leaf">{}{}</div>', label, _leaf(value))
    is_object = isinstance(value, _Members)
    many = f"{len(value):,} {'member' if is_object else 'item'}{'' if len(value) == 1 else 's'}"
    if not value:
        return format_html('<div class="leaf">{}{}</div>', label, "{}" if is_object else "[]")
    if depth >= MAX_DEPTH:
        budget.is_whole = False
        return format_html('<div class="leaf">{}<span class="c">… {}</span></div>', label, many)
    children = format_html_join("", "{}", ((child,) for child in _children(value, depth + 1, budget)))
    is_open = depth == 0 or (depth <= 2 and len(value) <= _OPEN_NODES)
    return format_html(
        _OPEN if is_open else _CLOSED,
        label,
        f"{{}} {many}" if is_object else f"[] {many}",
        children,
    )


def _children(value: list[Any], depth: int, budget: _Budget) -> Iterator[SafeString]:
    pairs = value if isinstance(value, _Members) else ((str(number), one) for number, one in enumerate(value))
    for shown, (name, one) in enumerate(pairs):
        if budget.nodes <= 0:
            budget.is_whole = False
            yield format_html('<div class="leaf c">… {} more</div>', f"{len(value) - shown:,}")
            return
        yield _node(name, one, depth, budget)


def _leaf(value: Any) -> SafeString:
    if isinstance(value, _Number):
        return format_html('<span class="m">{}</span>', _short(value))
    if isinstance(value, str):
        return format_html('<span class="s">"{}"</span>', _short(value))
    return format_html('<span class="k">{}</span>', json.dumps(value))


def _short(text: str) -> str:
    return visible(text if len(text) <= MAX_STRING else text[:MAX_STRING] + "…")
