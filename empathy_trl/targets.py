"""What a model with a classification head puts out, written into its `config.json`, so that the model describes itself.

A regression model has one output per rating. A classification model has one output per label, in one group (nine response
intents) or in several that stand side by side (EPITOME: three mechanisms with three levels each).
"""

from dataclasses import dataclass

import numpy as np

# what `outputs.py` reads of a config beside what a task writes
OTHERS = ("label_ranges", "label_groups", "sentence_transformers", "sbert_ce_default_activation_function")


@dataclass(frozen=True)
class Targets:
    """The outputs of a model, in order.

    Attributes:
        task: "regress" or "classify".
        outputs: for regress, rating -> (lowest, highest value); for classify, group -> names of its labels.
    """

    task: str
    outputs: dict[str, tuple]

    @property
    def names(self) -> list[str]:
        """One name per output: the rating, the label, or with several groups `group:label`."""
        if self.task == "regress":
            return list(self.outputs)
        if len(self.outputs) == 1:
            return [str(name) for labels in self.outputs.values() for name in labels]
        return [f"{group}:{name}" for group, labels in self.outputs.items() for name in labels]

    def slices(self) -> dict[str, slice]:
        """Return where the outputs of every rating or group stand."""
        slices, start = {}, 0
        for name, values in self.outputs.items():
            size = 1 if self.task == "regress" else len(values)
            slices[name] = slice(start, start + size)
            start += size
        return slices

    def write(self, config) -> None:
        """Describe the outputs in a transformers config: `id2label`, `problem_type`, and ranges or groups.

        What a base model says of outputs that it had before goes: the scale of a cross-encoder is not that of our ratings.
        """
        for name in OTHERS:
            if getattr(config, name, None) is not None:
                delattr(config, name)
        config.id2label = dict(enumerate(self.names))
        config.label2id = {name: number for number, name in enumerate(self.names)}
        if self.task == "regress":
            config.problem_type = "regression"
            config.label_ranges = {name: [float(low), float(high)] for name, (low, high) in self.outputs.items()}
        else:
            config.problem_type = "single_label_classification"
            # pairs: a config is saved with the keys of its mappings sorted, and the order says which logits are whose
            config.label_groups = [[group, list(labels)] for group, labels in self.outputs.items()]


def predicted_labels(logits: np.ndarray, targets: Targets) -> np.ndarray:
    """Return the likeliest label of every group.

    Args:
        logits: shape (rows, outputs).
        targets: of task "classify".

    Returns int64 of shape (rows, groups): positions in the group.
    """
    return np.stack([logits[:, part].argmax(axis=1) for part in targets.slices().values()], axis=1)
