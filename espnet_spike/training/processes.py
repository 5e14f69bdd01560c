"""Which processes train together, and where they meet.

ESPnet starts one a GPU, or a launcher (torchrun, srun, mpirun) starts them. ESPnet cuts the list of
nodes of a Slurm step at the first ``-``, which is part of many host names; so the address is given
to it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from espnet_spike.errors import UserError

# ports of the range that no service has registered: one a job, so that jobs of one node part
FIRST_PORT, PORTS = 20_000, 10_000


@dataclass(frozen=True)
class Processes:
    """The processes that were asked for.

    Args:
        ngpu: GPUs; 0 trains on the CPU.
        distributed: those options of `espnet_spike.tasks.arguments.DISTRIBUTED` that were given.
    """

    ngpu: int
    distributed: Mapping[str, str]

    def words(self) -> list[str]:
        """Return ESPnet's options for them.

        Raises:
            UserError: ``--dist_launcher slurm`` in a process that ``srun`` did not start.
        """
        options = dict(self.distributed)
        launcher = options.get("dist_launcher")
        if launcher == "slurm" and "dist_init_method" not in options:
            address, port = meeting_point()
            options = {"dist_master_addr": address, "dist_master_port": str(port)} | options
        if self.ngpu > 1 and launcher is None and "RANK" not in os.environ:
            options = {"multiprocessing_distributed": "true"} | options
        words = ["--ngpu", str(self.ngpu)]
        for name, value in options.items():
            words += [f"--{name}", value]
        return words


def rank(launcher: str | None) -> int:
    """Return the rank of this process among those that were started for one training, else 0.

    Args:
        launcher: ESPnet's ``dist_launcher``. Only a training that is told of Slurm or MPI takes its
            rank from there: whatever else runs below ``srun`` has one, too.
    """
    name = {"slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}.get(launcher or "", "RANK")
    return int(os.environ.get(name, 0))


def first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list.

    >>> first_host("gpu-a[03-05,09],gpu-b1")
    'gpu-a03'
    """
    # the first name ends at a comma that stands in no brackets
    name = re.sub(r"^((?:\[[^\]]*\]|[^,\[])*).*", r"\1", nodelist, flags=re.DOTALL)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", name)


def meeting_point(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the host and the port at which the processes of this Slurm step meet.

    Every process of a step finds the same. The port follows from the number of the job (ours).

    Raises:
        UserError: this is no process that ``srun`` started.
    """
    try:
        nodes, job = environ["SLURM_STEP_NODELIST"], int(environ["SLURM_JOB_ID"])
    except KeyError as error:
        raise UserError(
            f"--dist_launcher slurm, but {error.args[0]} is not set",
            "start the command by srun, as run.sh --dist_launcher slurm does",
        ) from None
    return first_host(nodes), FIRST_PORT + job % PORTS
