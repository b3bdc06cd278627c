import pytest
from commands import neuroglot


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, checkpoint, corpus):
    """A run with a recording, to be copied before anything is done to it."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    neuroglot("record", checkpoint, corpus, "--out", folder, "--block", 32, "--tokens", 2000)
    return folder
