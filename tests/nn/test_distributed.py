import multiprocessing

import torch

from espnet_spike.nn.distributed import all_reduce_sum, distributed


def test_a_single_process_sums_nothing():
    assert not distributed()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert all_reduce_sum(x) is x


def _sum(rank, path, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2
    )
    x = torch.tensor([1.0, 10.0 * rank], requires_grad=True)
    total = all_reduce_sum(x)
    (total * torch.tensor([1.0, 2.0 + rank])).sum().backward()
    queue.put((rank, distributed(), total.tolist(), x.grad.tolist()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_share_sums_and_gradients(one_thread, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_sum, args=(rank, tmp_path, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        found = sorted(queue.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(30)
            process.kill()
    # each process's sum feeds the other's loss: the gradient is that of both
    assert found == [(rank, True, [2.0, 10.0], [2.0, 5.0]) for rank in range(2)]
