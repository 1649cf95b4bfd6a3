"""The card of a trained agent, in Markdown: what was measured, and what would make it again."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Final

from saplab.metrics.scores import mean_score
from saplab.rl.agents import Facts
from saplab.rl.play import Rules
from saplab.rl.published import PUBLISHED
from saplab.rl.recipes import AgentRecipe
from saplab.rl.records import AgentRecord, best_record

_PUBLISHED: Final = ("random play", "a human", "DQN, 50 million steps", "Double DQN, 50 million steps")


def write_card(
    facts: Facts, recipe: AgentRecipe, history: Sequence[AgentRecord], rules: Rules, command: str, machine: str
) -> str:  # fmt: skip
    """Describe a finished run: the rules are those of the scored games, `command` made it, `machine` is in words."""
    seconds = sum(record.seconds for record in history)
    speeds = sorted(record.steps_per_second for record in history)
    recipe_lines = "\n".join(f"- {field.name}: {getattr(recipe, field.name)}" for field in fields(recipe))
    sticky = f"sticky actions {rules.sticky:g}" if rules.sticky else "no sticky actions"
    return f"""# {facts.game}: an agent by Double DQN

Points in full games, mean with 95 % interval (Student's, over games; ε = {rules.epsilon:g}, 0 to 29 no-ops, {sticky},
unclipped rewards), of {_kept(recipe, history)}, in float16:

| | points | games |
|---|---:|---:|
{_scores(facts)}

{facts.steps:,} agent steps (four frames each), seed {facts.seed}, by `{command}`.

## Recipe

{recipe_lines}

## Curve

| steps | ε | points at that ε | games | evaluation |
|---:|---:|---:|---:|---:|
{_curve(history)}

## Machine

- {machine}
- {seconds / 60:.0f} minutes; a median {speeds[len(speeds) // 2]:.0f} steps a second while learning

Another machine or number of threads rounds otherwise and ends with other weights.
"""


def _kept(recipe: AgentRecipe, history: Sequence[AgentRecord]) -> str:
    best = best_record(history) if recipe.keep_best else None
    if best is None:
        return "the weights after the last step; no evaluation decided anything"
    return (
        f"the weights after {best.step:,} steps, which scored most in the evaluations of {recipe.score_episodes} other"
        f" games every {recipe.score_every:,} steps"
    )


def _scores(facts: Facts) -> str:
    lines = [("this agent", facts.scores), ("random play", facts.random_scores)]
    rows = [f"| {name} | {mean_score(scores)} | {len(scores)} |" for name, scores in lines]
    if published := PUBLISHED.get(facts.game):
        others = zip(_PUBLISHED, astuple(published), strict=True)
        rows += [f"| {name} (Wang et al. 2016, table 2) | {points:,} | |" for name, points in others]
    return "\n".join(rows)


def _curve(history: Sequence[AgentRecord]) -> str:
    """Show about twenty records, and all with an evaluation."""
    every = max(1, -(-len(history) // 20))
    shown = [r for i, r in enumerate(history) if r.evaluation or (i + 1) % every == 0]
    return "\n".join(
        f"| {r.step:,} | {r.epsilon:.2f} | {'–' if r.score is None else f'{r.score:.0f}'} | {r.games} |"
        f" {mean_score(r.evaluation) if r.evaluation else ''} |"
        for r in shown
    )
