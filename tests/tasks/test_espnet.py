import pytest

from espnet_spike.tasks import espnet


def test_names_are_those_of_espnet():
    from espnet2.bin import asr_inference
    from espnet2.tasks.asr import ASRTask

    assert espnet.ASRTask is ASRTask
    assert espnet.asr_inference is asr_inference
    assert "asr_inference" not in vars(espnet)  # imported when it is asked for
    with pytest.raises(AttributeError, match="no attribute 'asr_training'"):
        _ = espnet.asr_training
