"""The tables of a batch whose rows are under recipes of their own."""

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neuroglot as ng
from neuroglot.edit.rows import RowEdits


class Counted(TorchDispatchMode):
    """How many operations of torch run inside the block; those that only look at where a tensor is do not count."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not str(function).startswith(("aten.to", "aten.select"))
        return function(*args, **(kwargs or {}))


def masks(model, count):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(model.layers, model.neurons, generator=generator) < 0.3 for _ in range(count)]


@torch.inference_mode()
def operations(layers, recipes):
    """How many it takes to make the tables and to give every row its recipe."""
    model = tiny.model("llama", num_hidden_layers=layers)
    steps = [(ng.Deactivate(mask),) for mask in masks(model, recipes)]
    rows = torch.arange(recipes)
    with Counted() as counted:
        for edits in RowEdits.of_parts(model, steps, recipes):
            edits.assign(rows, rows)
    return counted.count


def test_many_recipes_of_many_layers_take_as_many_operations_as_few():
    assert operations(6, 40) == operations(2, 2) < 60


@torch.inference_mode()
def test_rows_that_move_and_tables_that_are_filled_again_keep_their_recipes():
    model = tiny.model("llama")
    ids = torch.randint(5, 200, (3, 6), generator=torch.Generator().manual_seed(0))
    one, two, three = masks(model, 3)
    recipes = [(ng.Deactivate(one),), (), (ng.Raise(two, 0.2), ng.Scale(three, 2.0, site="hidden"))]
    alone = []
    for steps in recipes:
        with ng.intervene(model, *steps):
            alone.append(model.network(ids).logits)

    def check(edits, order):
        with edits.applied(3):
            made = model.network(ids).logits
        for row, recipe in enumerate(order):
            torch.testing.assert_close(made[row], alone[recipe][row])

    first, _ = RowEdits.of_parts(model, recipes, 3)
    first.assign(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    check(first, [2, 0, 1])
    first.move(torch.tensor([0]), torch.tensor([2]))
    check(first, [2, 0, 2])
    places = [table.data_ptr() for table in first._tables.values()]
    second, _ = RowEdits.of_parts(model, recipes[::-1], 3)
    assert second.structure == first.structure
    second.assign(torch.arange(3), torch.tensor([1, 2, 0]))
    first.refill(second)
    check(first, [1, 0, 2])
    assert [table.data_ptr() for table in first._tables.values()] == places  # where a captured step reads them
    first.assign(torch.arange(3), torch.tensor([0, 0, 2]))
    check(first, [2, 2, 0])


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(strength):
    model = tiny.model("llama")
    step = ng.Add(masks(model, 1)[0], strength)
    with pytest.raises(ng.NeuroglotError, match="not numbers"), ng.intervene(model, step):
        pass
