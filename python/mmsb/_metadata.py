"""Metadata of commits and pages: JSON objects in one canonical text.

The text is UTF-8 with sorted keys and no spaces, without NaN or infinity, integers within 64 bits.
It is checked where it is given, so a commit cannot fail for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .errors import ArgumentError, ArgumentTypeError

DURABILITIES = ("memory", "os", "disk")
MAX_BYTES = 64 * 1024
_MAX_DEPTH = 64
_MAX_NAME_BYTES = 255


def meta_text(meta: Mapping[str, Any] | None) -> str:
    """Return the canonical JSON text of metadata, "" for none.

    Examples
    --------
    >>> meta_text({"step": np.int64(7), "by": "physics"})
    '{"by":"physics","step":7}'
    >>> meta_text(None)
    ''
    """
    if meta is None:
        return ""
    if not isinstance(meta, Mapping):
        raise ArgumentTypeError(f"metadata must be a mapping, not {type(meta).__name__}")
    if not meta:
        return ""
    text = dumps(meta)
    if len(text.encode()) > MAX_BYTES:
        raise ArgumentError(
            f"metadata of {len(text.encode())} bytes is over 64 KiB; store it in a page"
        )
    return text


def meta_dict(text: str | None) -> dict[str, Any]:
    """Return stored metadata as a dict of the caller's own."""
    return json.loads(text) if text else {}


def dumps(value: Any) -> str:
    """Return the canonical JSON text of a metadata value."""
    text = json.dumps(
        _plain(value, "meta", 0),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError("metadata must be valid Unicode, without lone surrogates") from error
    return text


def _plain(value: Any, where: str, depth: int) -> Any:
    """Return a value as JSON knows it, or say what in it cannot be stored."""
    if depth > _MAX_DEPTH:
        raise ArgumentError(f"metadata is nested over {_MAX_DEPTH} deep; store it in a page")
    if isinstance(value, (np.bool_, np.integer)):
        value = value.item()
    elif isinstance(value, np.floating):
        value = float(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ArgumentError(f"{where} is {value}, which is not within 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentError(f"{where} is {value}, which JSON does not have; store it in a page")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentTypeError(f"{where} has the key {key!r}; keys must be str")
        return {str(key): _plain(v, f"{where}[{key!r}]", depth + 1) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    advice = "; store it in a page" if isinstance(value, np.ndarray) else ""
    raise ArgumentTypeError(
        f"{where} is a {type(value).__name__}, which is not a JSON value{advice}"
    )


def members(meta: Mapping[str, Any] | None) -> list[str]:
    """Return the top-level members that a query looks for, each as it stands in stored metadata.

    Examples
    --------
    >>> members({"step": 7, "by": "physics"})
    ['"step":7', '"by":"physics"']
    """
    if meta is None:
        return []
    if not isinstance(meta, Mapping):
        raise ArgumentTypeError(f"meta must be a mapping, not {type(meta).__name__}")
    # The text is canonical: a member that is there is there letter by letter.
    return [dumps({key: value})[1:-1] for key, value in meta.items()]


def check_name(name: str, what: str = "page name") -> str:
    """Return a page or tag name if it is one."""
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a {what} must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} {name!r} is not valid Unicode") from error
    if not 1 <= size <= _MAX_NAME_BYTES:
        raise ArgumentError(f"a {what} must be 1 to {_MAX_NAME_BYTES} bytes of UTF-8, not {size}")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise ArgumentError(f"{what} {name!r} holds control characters")
    return str(name)


class How(NamedTuple):
    """What a commit says about itself: source, canonical metadata, durability."""

    source: str | None
    meta: str | None
    durability: str | None


def how(source: str | None, meta: Mapping[str, Any] | None, durability: str | None) -> How:
    """Return what a commit says about itself, checked."""
    if source is not None:
        check_name(source, "source")
    if durability is not None and durability not in DURABILITIES:
        raise ArgumentError(
            f"durability must be one of {', '.join(map(repr, DURABILITIES))}, not {durability!r}"
        )
    return How(source, meta_text(meta) or None, durability)
