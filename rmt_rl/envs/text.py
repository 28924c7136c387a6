"""Text in observations as an array of bytes that a policy can read, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

#: Bytes of the longest text where its space does not say how long it may be, as minigrid's missions.
LONGEST = 256
#: Bytes that end a word.
SEPARATORS = b'\0\t\n\r ,.;:!?"()'
#: Bytes of the longest text that is supported.
MOST_BYTES = 4096


class TextBytes(spaces.Box):
    """Text as its UTF-8 bytes, [length] uint8, filled up with zeros. characters: it has no words, but single characters."""

    def __init__(self, length: int, characters: bool) -> None:
        super().__init__(0, 255, (length,), np.uint8)
        self.characters = characters

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextBytes) and (self.shape, self.characters) == (other.shape, other.characters)

    __hash__ = None  # type: ignore[assignment]  # like every Box


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether the observations of a space are text: gymnasium's Text, or a space of a package such as minigrid's missions."""
    return space.dtype is not None and space.dtype.kind == "U"


def text_bytes(space: spaces.Space[Any]) -> TextBytes:
    """The translated space of a text. Where blanks may occur it consists of words, if its alphabet has letters for them."""
    if not isinstance(space, spaces.Text):
        return TextBytes(LONGEST, characters=False)
    words = " " in space.character_set and any(c.encode() not in SEPARATORS for c in space.character_set)
    if words and space.max_length <= LONGEST:
        return TextBytes(LONGEST, characters=False)
    longest = max((len(character.encode()) for character in space.character_set), default=1)
    return TextBytes(min(int(space.max_length) * longest, MOST_BYTES), characters=not words)


def unreadable(space: spaces.Space[Any]) -> list[str]:
    """The characters of an alphabet that no text in bytes can keep: those that UTF-8 does not have, and that of the number 0."""
    return sorted(c for c in space.character_set if not _kept(c)) if isinstance(space, spaces.Text) else []


def _kept(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def to_bytes(text: Any, space: TextBytes) -> np.ndarray | None:
    """Text, or nested lists of texts, as bytes [..., length]; None where it is none, too long, or cannot be kept."""
    if isinstance(text, str):
        length, encoded = space.shape[0], text.encode() if _kept(text) else None
        if encoded is None or len(encoded) > length:
            return None
        return np.frombuffer(encoded.ljust(length, b"\0"), np.uint8).copy()
    if not isinstance(text, list | tuple | np.ndarray) or not np.ndim(text):
        return None
    rows = [to_bytes(each, space) for each in text]
    return np.stack(rows) if rows and all(row is not None for row in rows) else None  # type: ignore[arg-type]


def from_bytes(array: np.ndarray) -> str:
    """The text of one row [length]."""
    return array.tobytes().rstrip(b"\0").decode(errors="replace")


def texts_of(space: spaces.Space[Any]) -> dict[str, bool]:
    """The texts in a translated observation space by name ("" = all of it), and whether they consist of single characters."""
    return {name: part.characters for name, part in _parts(space).items() if isinstance(part, TextBytes)}


def with_texts(space: spaces.Space[Any], saved: Any) -> spaces.Space[Any]:
    """A space in which texts are plain arrays of bytes, with those that `texts_of` found as text again.

    saved: may come from a damaged file; names that fit no array of bytes are ignored.
    """
    names = saved if isinstance(saved, Mapping) else {}
    parts = {name: _as_text(part, names.get(name)) for name, part in _parts(space).items()}
    return spaces.Dict(parts) if isinstance(space, spaces.Dict) else parts[""]


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def _as_text(part: spaces.Space[Any], characters: Any) -> spaces.Space[Any]:
    length = (part.shape or (0,))[0]
    fits = length <= MOST_BYTES and part == spaces.Box(0, 255, (length,), np.uint8)
    return TextBytes(length, characters) if fits and isinstance(characters, bool) else part
