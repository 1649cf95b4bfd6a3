"""Generated inputs for saplab: each is refused in one line or gives right numbers, and nothing else happens.

``PYTHONPATH=tests python -m fuzz --count 1000`` is the long form, `test_fuzz.py` the short one. A generator is one
function in a file ``of_….py`` of this folder:

    @generator
    def a_wrong_limit(draw: random.Random, folder: Path) -> Case:
        return command("evaluate", "--limit", str(draw.choice([0, -1, 10**30])), right={2})

It writes what it needs into `folder`, which is the working folder of the case's process, and returns a `Case`.
"""
