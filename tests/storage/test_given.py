"""What is said of a path at which no file is."""

import os

import pytest

import neuroglot as ng
from neuroglot.storage.given import check_file


def test_what_is_there_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    check_file(file, "give a file")
    (tmp_path / "link").symlink_to(file)
    check_file(tmp_path / "link", "give a file")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    places = {
        tmp_path: "is a directory",
        tmp_path / "nothing": "does not exist",
        tmp_path / "broken": "is a link to nothing",
        tmp_path / "pipe": "is no ordinary file",
        tmp_path / ("x" * 300): "does not exist",
        file / "below": "does not exist",
    }
    for path, wrong in places.items():
        with pytest.raises(ng.NeuroglotError, match=f"{wrong}; give a file.$"):
            check_file(path, "give a file")
