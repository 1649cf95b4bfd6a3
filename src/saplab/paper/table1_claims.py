"""What is said of Table 1, for stored scores to judge."""

from collections.abc import Iterator, Sequence

from saplab.paper.game_table import Line
from saplab.paper.published import PAPER_CHANGES
from saplab.paper.study import Claim
from saplab.paper.table1 import STRENGTHS


def claims_of(game: str, lines: Sequence[Line]) -> Iterator[Claim]:
    """Yield the paper's claims about a game (section 4.2), and the erratum's where its lines are there.

    Args:
        game: name of the ROM.
        lines: as `TableRequest.lines` has them: original, SAP-100, then BPDA and the original's gradient if at all.
    """
    original, sap, *beyond = (one.label for one in lines[:4])
    yield Claim("SAP-100 costs points where nobody attacks.", sap, original, "lower", (0,))
    paper = PAPER_CHANGES.get(game, {})
    if gains := tuple(strength for strength, change in paper.items() if strength and change > 0):
        yield Claim("SAP-100 gains points under attack.", sap, original, "higher", gains)
    if losses := tuple(strength for strength, change in paper.items() if strength and change < 0):
        yield Claim("The one exception: SAP-100 loses points under attack.", sap, original, "lower", losses)
    if beyond:
        bpda, transfer = beyond
        yield Claim("BPDA (identity backward) takes points that the mask's gradient leaves (Dhillon & Carlini 2020).",
                    bpda, sap, "lower", STRENGTHS[1:])  # fmt: skip
        yield Claim("So does the original agent's gradient.", transfer, sap, "lower", STRENGTHS[1:])
