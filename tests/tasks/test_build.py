import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks.build import token_names


def test_token_names():
    assert len(token_names(7)) == len(set(token_names(7))) == 7
    with pytest.raises(UserError, match="too small"):
        token_names(2)
