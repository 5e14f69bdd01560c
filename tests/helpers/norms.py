"""Networks whose batch norms are not as they start."""

from torch import nn

from espnet_spike.nn.norms import MaskedBatchNorm


def trained(module):
    """Give every batch norm statistics and weights that are not the initial ones."""
    for m in module.modules():
        if isinstance(m, MaskedBatchNorm):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
            nn.init.uniform_(m.weight, 0.5, 2.0)
            nn.init.normal_(m.bias)
    return module.eval()


def excited(network):
    """Lift the input of the neurons, so that every layer fires."""
    for norm in network.modules():
        if isinstance(norm, MaskedBatchNorm):
            nn.init.constant_(norm.bias, 0.3)
    return network
