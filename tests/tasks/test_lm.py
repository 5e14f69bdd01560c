import pickle

from espnet_spike.tasks.lm import SpikeLMTask
from espnet_spike.tasks.oom_scan import RemembersShapes
from espnet_spike.tasks.trainer import SpikeTrainer


def test_language_models_are_trained_with_our_trainer_and_can_be_scanned():
    assert SpikeLMTask.trainer is SpikeTrainer
    assert issubclass(SpikeLMTask, RemembersShapes)
    options = {action.dest for action in SpikeLMTask.get_parser()._actions}
    assert {"lm", "lm_conf", "max_epoch"} <= options and "encoder" not in options


def test_spawned_processes_unpickle_the_task_from_its_module():
    pickled = pickle.dumps(SpikeLMTask.main_worker)
    assert b"espnet_spike.tasks.lm" in pickled
    assert pickle.loads(pickled) == SpikeLMTask.main_worker
