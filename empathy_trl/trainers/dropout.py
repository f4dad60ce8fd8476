"""Dropout that is off also while a model trains, so that it gives the same text the same probability every time."""

from torch import nn


def switch_off_dropout(model: nn.Module):
    """Set all dropout of a model to 0: the probability of modules, and the numbers by which layers and attention drop.

    `trl.trainer.utils.disable_dropout_in_model` knows the modules only, while most attention of transformers, and all of
    BART, reads a number such as `self.attention_dropout`.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)
