import pytest

from espnet_spike.export import onnx_check


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"unflipped": 150, "unexplained": 2}, "2 of 150 utterances have another greedy"),
        ({"unflipped": 200, "unexplained": 2}, ""),
        ({"unflipped": 9, "unexplained": 1, "counts": 9}, ""),
        (
            {"unflipped": 9, "unexplained": 2, "counts": 9},
            "2 of 9 utterances with equal spikes have another greedy",
        ),
        ({"same": 90, "unflipped": 50, "counts": 10**6, "flips": 9000}, ""),
        ({"unflipped": 50, "counts": 10**6, "flips": 20000}, "spike counts"),
        ({"largest": 0.5}, "differ by 0.5"),
        ({"largest": 0.5, "counts": 9}, ""),
    ],
)
def test_what_rounding_does_not_explain_is_told(figures, told):
    problem = onnx_check.Agreement(**({"utterances": 200, "same": 198} | figures)).problem()
    assert told in problem and bool(told) == bool(problem)
