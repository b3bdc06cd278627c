"""Sets of single parameters as a table."""

import torch

from neuroglot.artifacts.parameters import ParameterSet


def test_the_frame_has_a_row_for_every_parameter_of_every_language(tmp_path):
    places = {"en": {"a.weight": torch.tensor([1, 4])}, "fr": {"a.weight": torch.tensor([4]), "b": torch.tensor([0])}}
    table = ParameterSet(places).frame()
    rows = [("en", "a.weight", 1, 1), ("en", "a.weight", 4, 2), ("fr", "a.weight", 4, 2), ("fr", "b", 0, 1)]
    assert list(table.itertuples(index=False, name=None)) == rows
    assert list(table) == ["language", "parameter", "place", "languages"]
    again = ParameterSet.load(ParameterSet(places).save(tmp_path / "p.safetensors"))
    assert again.frame().equals(table) and again.frame()["language"].value_counts().to_dict() == again.sizes()
    assert ParameterSet({"en": {}}).frame().empty
