"""How to run what a check is missing, in options of the command line."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saplab.evaluation.advice import Advice


def in_options(advice: "Advice") -> str:
    """Return advice as options: ``--attack adaptive --lambda 1,2,4,8``."""
    radii = ",".join(advice.radii)
    parts = (
        f"--attack {shlex.quote(advice.attack)}" if advice.attack else "",
        f"--{'lambda' if advice.threat.in_steps else 'eps'} {radii}" if radii else "",
        f"more images, by a larger --limit: {advice.about_images}" if advice.more_than else "",
        "--baseline (the undefended network beside the defended one)" if advice.baseline else "",
    )
    return " ".join(filter(None, parts))
