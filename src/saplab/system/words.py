"""Numbers with their nouns, as sentences need them."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Give a number with its noun: "1 thread", "1,800 games".

    Args:
        count: the number.
        noun: of one.
        plural: of any other number; by default the noun and an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
