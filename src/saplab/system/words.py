"""Numbers with their nouns, for sentences."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 thread", "1,800 games"; the plural is the noun and an s by default."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
