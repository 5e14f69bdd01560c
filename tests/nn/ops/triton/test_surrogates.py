"""Surrogate derivatives of the kernels: those of the reference, by name."""

from espnet_spike.nn.ops import surrogate
from espnet_spike.nn.ops.triton import surrogates


def test_every_surrogate_of_the_reference_is_there():
    assert set(surrogates.NAMES) == set(surrogate.SURROGATES)
    places = [surrogates.SIGMOID, surrogates.ATAN, surrogates.RATIONAL]
    assert [surrogates.NAMES[place.value] for place in places] == ["sigmoid", "atan", "rational"]
