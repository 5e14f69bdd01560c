import pickle

from espnet2.tasks.asr import encoder_choices

from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.trainer import SpikeTrainer


def test_defaults():
    args = SpikeASRTask.get_parser().parse_args([])
    assert args.model == "spike_asr"
    assert SpikeASRTask.trainer is SpikeTrainer
    assert "iml_spikeformer" in encoder_choices.classes


def test_spawned_processes_unpickle_the_task_from_its_module():
    """Multi-GPU training pickles the worker; loading it has to import the registration."""
    pickled = pickle.dumps(SpikeASRTask.main_worker)
    assert b"espnet_spike.task" in pickled
    assert pickle.loads(pickled) == SpikeASRTask.main_worker
