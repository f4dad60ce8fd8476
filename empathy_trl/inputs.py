"""What goes into a stage's training: its rows, their labels, and the texts that a new tokenizer learns from."""

import re

from empathy_trl.errors import UserError
from empathy_trl.recipe.layers import LABEL_TASKS


def local_rows(stage) -> dict[str, tuple]:
    """Return split -> (rows, report) for the splits a stage trains and is evaluated on; empty for data on the Hub.

    Raises:
        DataError: a file or a row cannot be used.
        UserError: from `label_targets`.
    """
    from empathy_trl.data import on_hub, read_split

    if stage.task in LABEL_TASKS:
        label_targets(stage)
    if on_hub(stage.data.path):
        return {}
    chosen_by = ("valid",) if stage.task in LABEL_TASKS else ()  # the split by which the best checkpoint is chosen
    return {
        split: read_split(stage.data, split) for split in dict.fromkeys(("train", *chosen_by, stage.evaluation.split))
    }


def stage_rows(stage, split: str):
    """Return one split of a stage's data as its task needs it, a `datasets.Dataset`."""
    from empathy_trl.data import build

    return build(stage.data, split, stage.task)


def is_pairwise(stage) -> bool:
    """Say whether a stage learns which of two replies is better, instead of how good each is."""
    return stage.task == "regress" and stage.trainer.get("objective") == "pairwise"


def label_targets(stage):
    """Return the `Targets` of a stage with task regress or classify.

    Raises:
        UserError: pairs are to be learned from data without contexts, or from several ratings at once.
    """
    from empathy_trl.data import BUILDERS, comparable, targets
    from empathy_trl.outputs import Targets

    found = targets(stage.data)
    if not is_pairwise(stage):
        return Targets(stage.task, found)
    key = f"stages.{stage.name}.trainer.objective: pairwise"
    if not comparable(stage.data.name):
        fitting = ", ".join(filter(comparable, BUILDERS))
        raise UserError(
            f"{key} compares replies to one context, and {stage.data.name} has none (data that do: {fitting})"
        )
    if len(found) != 1:
        raise UserError(f"{key} compares by one rating, not by {', '.join(found)}; name it with data.ranges")
    return Targets("compare", found)


def describe_input(config, stage, max_length: int) -> None:
    """Note in a model's config how texts were prepared, so that they are prepared alike wherever the model is used."""
    from empathy_trl.data import normalization

    config.text_max_length = max_length
    config.text_normalization = normalization(stage.data)


def label_texts(train) -> list[str]:
    """Return the texts that the tokenizer of an encoder from scratch learns from."""
    return [text for column in ("text", "pair") if column in train.column_names for text in train[column]]


def scratch_texts(train) -> tuple[list[str], list[str]]:
    """Return the texts that a from-scratch tokenizer learns from, and the tags that occur in them."""
    parts = [column for column in ("prompt", "completion") if column in train.column_names]
    texts = [message["content"] for row in train for part in parts for message in row[part]]
    return texts, sorted({tag for text in texts for tag in re.findall(r"</(\w+)>", text)})


def scratch_tokenizer(stage):
    """Return the tokenizer that a stage with `model.from_scratch` will get."""
    from empathy_trl.encoders import build_encoder_tokenizer
    from empathy_trl.scratch import build_tokenizer

    scratch, train = stage.model.from_scratch, stage_rows(stage, "train")
    if stage.task in LABEL_TASKS:
        return build_encoder_tokenizer(label_texts(train), scratch.vocab_size, scratch.max_length)
    texts, tags = scratch_texts(train)
    return build_tokenizer(texts, scratch.vocab_size, tags)
