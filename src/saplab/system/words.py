"""Numbers with their nouns, for sentences, and names of files."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 thread", "1,800 games"; the plural is the noun and an s by default."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def readable(name: str) -> str:
    r"""Return a file's name as text that can be written: bytes that are no UTF-8 as ``\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
