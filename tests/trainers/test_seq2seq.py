"""Supervised fine-tuning of encoder-decoders: what the model reads and writes, the loss, and what is refused."""

import logging

import pytest
import torch
from datasets import Dataset
from transformers import Seq2SeqTrainer

from empathy_trl.models.generate import generate_completions
from empathy_trl.trainers.encoder_decoder import CompletionLoss, Seq2SeqConfig, collator, encode
from tests.trainers.tiny_t5 import tiny_t5

PAIRS = [("number 1", "3"), ("number 2 lost my keys", "So sad, I am sorry."), ("keys", "number 9 8"), ("sad", "joyful")]


def rows(pairs=PAIRS):
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": prompt}] for prompt, _ in pairs],
            "completion": [[{"role": "assistant", "content": completion}] for _, completion in pairs],
        }
    )


def config(folder, **settings):
    quiet = {
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return Seq2SeqConfig(output_dir=str(folder), **{"per_device_train_batch_size": 4, "logging_steps": 1, **quiet, **settings})  # fmt: skip


def make_trainer(folder, model=None, **settings):
    fresh, tokenizer = tiny_t5()
    model, args = model or fresh, config(folder, **settings)
    return Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=encode(rows(), tokenizer, args.max_length),
        processing_class=tokenizer,
        data_collator=collator(tokenizer, model),
        compute_loss_func=CompletionLoss(args.label_smoothing_factor),
    )


def test_the_encoder_reads_the_rendered_prompt_and_the_decoder_writes_the_completion_and_its_end():
    _, tokenizer = tiny_t5()
    encoded = encode(rows(), tokenizer, None)
    assert encoded.column_names == ["input_ids", "labels"]
    assert tokenizer.decode(encoded[1]["input_ids"]) == "<|user|>number 2 lost my keys<|assistant|>"
    assert tokenizer.decode(encoded[1]["labels"]) == "So sad, I am sorry.<eos>"


def test_long_prompts_lose_their_beginning_and_long_completions_their_end(caplog):
    _, tokenizer = tiny_t5()
    whole = encode(rows(), tokenizer, None)
    with caplog.at_level(logging.WARNING):
        cut = encode(rows(), tokenizer, 5)
    assert cut["input_ids"] == [ids[-5:] for ids in whole["input_ids"]]
    assert cut["labels"] == [ids[:5] for ids in whole["labels"]]
    prompts, completions = (sum(len(ids) > 5 for ids in whole[name]) for name in ("input_ids", "labels"))
    assert [record.getMessage() for record in caplog.records] == [
        f"max_length 5: {prompts} of 4 prompts lose their beginning",
        f"max_length 5: {completions} of 4 completions lose their end",
    ]


def test_batches_are_padded_on_the_right_to_their_longest_and_labels_by_what_the_loss_ignores():
    model, tokenizer = tiny_t5()
    encoded = encode(rows(), tokenizer, None)
    batch = collator(tokenizer, model)([encoded[0], encoded[1]])
    for name in ("input_ids", "labels"):
        width = max(len(encoded[row][name]) for row in (0, 1))
        assert batch[name].shape == (2, width)
        assert batch[name][0, len(encoded[0][name]) :].unique().tolist() == [
            tokenizer.pad_token_id if name == "input_ids" else -100
        ]
    assert batch["attention_mask"].sum(1).tolist() == [len(encoded[row]["input_ids"]) for row in (0, 1)]
    start = model.config.decoder_start_token_id
    assert batch["decoder_input_ids"][1].tolist() == [start, *encoded[1]["labels"][:-1]]
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_tokens_however_they_are_batched(smoothing):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, 4], [5, -100, -100, -100], [6, 0, -100, -100]])
    loss = CompletionLoss(smoothing)
    kept = labels != -100
    expected = torch.nn.functional.cross_entropy(logits[kept], labels[kept], label_smoothing=smoothing)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    parts = [loss({"logits": logits[part]}, labels[part], num_items_in_batch=7) for part in ([0], [1, 2])]
    torch.testing.assert_close(sum(parts), expected)


def test_accumulated_batches_train_like_whole_ones(tmp_path):
    losses = []
    for size, accumulated in ((4, 1), (1, 4)):
        trainer = make_trainer(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, max_steps=3
        )
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_tiny_model_memorises_its_rows_and_stops_after_them(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=120, learning_rate=0.02, lr_scheduler_type="constant", seed=1)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] > 3 and losses[-1] < 0.05
    prompts = list(rows()["prompt"])
    written = generate_completions(
        trainer.model, trainer.processing_class, prompts, batch_size=3, max_new_tokens=20, progress=False
    )
    assert written == [completion for _, completion in PAIRS]


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"packing": True},
            "packing: true, but the model is an encoder-decoder: its prompt and its completion are two",
        ),
        ({"completion_only_loss": False}, "completion_only_loss: false, but the model is an encoder-decoder"),
        ({"assistant_only_loss": True}, "assistant_only_loss: true"),
        ({"loss_type": "dft"}, "loss_type: 'dft'"),
    ],
)
def test_settings_for_one_sequence_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_the_config_has_the_defaults_of_sft(tmp_path):
    ours = Seq2SeqConfig(output_dir=str(tmp_path), bf16=False)
    assert (ours.learning_rate, ours.logging_steps, ours.max_length, ours.gradient_checkpointing) == (
        2e-5,
        10,
        1024,
        True,
    )
    assert ours.generation_config is None
