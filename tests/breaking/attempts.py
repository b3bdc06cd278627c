"""How often each thing is tried: few times in `make test`, as often as it takes in `make break`."""

import os

WHOLE = "BREAK" in os.environ


def attempts(few, many):
    return many if WHOLE else few
