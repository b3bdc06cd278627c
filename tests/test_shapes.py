"""What checks the package's shapes as the tests run."""

from dataclasses import dataclass

import pytest
import shapes
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

decorated = shapes.some_calls(typechecker=shapes.checked)


@pytest.fixture(autouse=True)
def _again():
    shapes.begin()


def refusals(function, *arguments, calls=shapes.FIRST + 2 * shapes.EVERY):
    """The numbers of the calls that were checked."""
    found = []
    for number in range(1, calls + 1):
        try:
            function(*arguments)
        except TypeCheckError:
            found.append(number)
    return found


def test_the_first_calls_are_checked_and_then_one_in_so_many():
    @decorated
    def same(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return one

    right, wrong = (torch.ones(2), torch.ones(2)), (torch.ones(2), torch.ones(3))
    expected = [*range(1, shapes.FIRST + 1), shapes.EVERY, 2 * shapes.EVERY]
    assert refusals(same, *right) == []
    shapes.begin()  # another file of tests
    assert refusals(same, *wrong) == expected


def test_what_is_given_back_is_checked_and_methods_and_dataclasses_are():
    class Holder:
        @property
        @decorated
        def width(self) -> int:
            return "2"

        @classmethod
        @decorated
        def of(cls, width: int) -> int:
            return width

    @decorated
    @dataclass
    class Pair:
        one: int

    for wrong in (lambda: Holder().width, lambda: Holder.of("2"), lambda: Pair("2")):
        with pytest.raises(TypeCheckError):
            wrong()
    assert Holder.of(2) == 2 and Pair(1).one == 1


def test_functions_made_again_and_again_count_as_one():
    def made():
        @decorated
        def function(width: int) -> int:
            return width

        return function

    assert refusals(lambda: made()("2")) == [*range(1, shapes.FIRST + 1), shapes.EVERY, 2 * shapes.EVERY]


def test_where_nothing_is_checked_nothing_is():
    @decorated
    def function(width: int) -> int:
        return width

    with shapes.unchecked():
        assert refusals(function, "2") == []
