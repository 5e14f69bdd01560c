"""Where the processes of a Slurm step meet.

ESPnet cuts the list of nodes at the first ``-``, which is part of many host names; so the address
is given to it.
"""

import os
import re
from collections.abc import Mapping

from espnet_spike.errors import UserError

# ports of the range that no service has registered: one a job, so that jobs of one node part
FIRST_PORT, PORTS = 20_000, 10_000


def first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list.

    >>> first_host("gpu-a[03-05,09],gpu-b1")
    'gpu-a03'
    """
    # the first name ends at a comma that stands in no brackets
    name = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodelist)[0]
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
