"""Numbers with their nouns, for sentences, names of files, and names that somebody may have meant."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 thread", "1,800 games"; the plural is the noun and an s by default."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def meant(name: str, known: Iterable[str]) -> str:
    """Return the known name that a mistyped one is nearest to, whatever its capitals and hyphens; "" for none."""
    by_plain = {_plain(one): one for one in known}
    close = get_close_matches(_plain(name), by_plain, n=1, cutoff=0.65)
    return by_plain[close[0]] if close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: "; did you mean dense?", or "" for none that is near."""
    near = meant(name, known)
    return f"; did you mean {near}?" if near else ""


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


def harmless(text: str) -> str:
    r"""Return text whose control characters, but for tabs and ends of lines, are written as ``\x1b``.

    Labels of a folder from elsewhere could otherwise command the terminal, or turn the direction of its text.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def readable(name: str) -> str:
    r"""Return a file's name as text that can be written: bytes that are no UTF-8 as ``\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
