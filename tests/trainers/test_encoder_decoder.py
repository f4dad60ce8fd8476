"""Encoder-decoders: SFT, and GRPO with the prompt in the encoder."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration, Seq2SeqTrainer

from empathy_trl.errors import UserError
from empathy_trl.models.generate import generate_completions
from empathy_trl.models.limits import token_lengths, truncation
from empathy_trl.models.load import lora_config
from empathy_trl.recipe import Lora
from empathy_trl.trainers.encoder_decoder import (
    CompletionLoss,
    EncoderDecoderMixin,
    Seq2SeqConfig,
    collator,
    encode,
    trainer_class,
)
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer
from tests.trainers.settings import ROWS, assert_identical, length_reward, quiet_config, weights_of
from tests.trainers.tiny_t5 import save_t5, tiny_t5


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def make(t5_folder, tmp_path):
    """Return a function that makes a trainer of the tiny T5, or of another model."""

    def make(model=None, reward=length_reward, folder="out", peft_config=None, **settings):
        model = AutoModelForSeq2SeqLM.from_pretrained(t5_folder) if model is None else model
        settings = {"num_generations": 4, "max_completion_length": 6, "max_steps": 4, "learning_rate": 0.01} | settings
        return trainer_class(EmpathyGRPOTrainer, model)(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(t5_folder, padding_side="left"),
            reward_funcs=[reward],
            args=quiet_config(tmp_path / folder, **settings),
            train_dataset=ROWS,
            peft_config=peft_config,
        )

    return make


def random_batch(prompt_lengths, completion_lengths, pad_id=0):
    """Return ids and mask as TRL concatenates them: prompts padded on the left, completions on the right."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for prompt, completion in zip(prompt_lengths, completion_lengths, strict=True):
        before, after = max(prompt_lengths) - prompt, max(completion_lengths) - completion
        ids = torch.randint(5, 260, (prompt + completion,), generator=generator)
        rows.append((torch.cat([ids.new_full((before,), pad_id), ids, ids.new_full((after,), pad_id)]),
                     torch.tensor([0] * before + [1] * (prompt + completion) + [0] * after)))  # fmt: skip
    return [torch.stack(part) for part in zip(*rows, strict=True)]


def plain_logps(model, ids, row, temperature=1.0):
    """One forward without any padding, the labels given to the model as its documentation says."""
    prompt, completion = ids[row, 9 - PROMPTS[row] : 9], ids[row, 9 : 9 + COMPLETIONS[row]]
    with torch.no_grad():
        logits = model(input_ids=prompt[None], labels=completion[None]).logits[0] / temperature
    return logits.log_softmax(-1)[range(len(completion)), completion], logits


PROMPTS, COMPLETIONS = (3, 9, 1, 6), (5, 2, 4, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("batch_size", [None, 3, 1])
def test_log_probabilities_and_entropies_equal_a_plain_forward(make, temperature, batch_size):
    trainer = make(temperature=temperature)
    ids, mask = random_batch(PROMPTS, COMPLETIONS)
    with torch.no_grad():
        logps, entropies, aux_loss = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 5, batch_size, compute_entropy=True
        )
    assert logps.shape == entropies.shape == (4, 5) and aux_loss is None
    for row, completion in enumerate(COMPLETIONS):
        expected, logits = plain_logps(trainer.model, ids, row, temperature)
        torch.testing.assert_close(logps[row, :completion], expected, atol=1e-5, rtol=1e-5)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(entropies[row, :completion], entropy, atol=1e-5, rtol=1e-5)
        assert not logps[row, completion:].any() and not entropies[row, completion:].any()


def test_an_encoder_that_counts_positions_does_not_count_padding(make):
    config = BartConfig(vocab_size=320, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, dropout=0.0, init_std=0.5,
                        pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None)  # fmt: skip
    torch.manual_seed(0)
    trainer = make(BartForConditionalGeneration(config))
    ids, mask = random_batch(PROMPTS, COMPLETIONS)
    logps, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 5)
    for row, completion in enumerate(COMPLETIONS):
        expected, _ = plain_logps(trainer.model, ids, row)
        torch.testing.assert_close(logps[row, :completion], expected, atol=1e-5, rtol=1e-5)


def generated(trainer, prompts):
    return trainer._generate_single_turn(prompts, None, {}, 1)[0]


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_generate_prompt_by_prompt(make, beams):
    settings = {"do_sample": False, "num_beams": beams}
    trainer = make(generation_kwargs=settings, max_completion_length=12)
    model = trainer.model.eval()
    with torch.no_grad():  # large weights: what is generated then depends on the prompt
        for parameter in model.parameters():
            parameter.mul_(2)
    prompts = [[7, 8, 9], list(range(20, 33)), [40], [250, 251, 252, 253]]
    completions = generated(trainer, prompts)
    for prompt, completion in zip(prompts, completions, strict=True):
        output = model.generate(torch.tensor([prompt]), max_new_tokens=12, **settings)[0, 1:].tolist()
        assert completion == output[: len(completion)] and len(completion) > 0
        assert len(completion) == len(output) or completion[-1] in trainer.eos_token_ids
    assert len({tuple(completion) for completion in completions}) > 1, "the test needs completions that differ"
    assert "generate" not in vars(model)


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "adapter"])
def test_beams_and_rules_that_a_model_came_with_do_not_steer_a_rollout(make, adapted):
    trainer = make(generation_kwargs={"do_sample": False}, peft_config=LoraConfig(r=2) if adapted else None)
    prompts = [[7, 8, 9], [40]]
    expected = generated(trainer, prompts)
    usual = trainer._bare(trainer.model).generation_config
    usual.num_beams, usual.no_repeat_ngram_size, usual.min_length = 4, 1, 6
    usual.forced_bos_token_id, usual.forced_eos_token_id = 7, 1
    assert generated(trainer, prompts) == expected
    assert trainer._bare(trainer.model).generation_config is usual


def test_sampling_settings_reach_the_decoder_and_a_seed_repeats_it(make):
    prompts = [[7, 8, 9]] * 16
    one = make(top_k=1)
    assert len({tuple(completion) for completion in generated(one, prompts)}) == 1
    free = make(temperature=2.0)
    torch.manual_seed(3)
    first = generated(free, prompts)
    torch.manual_seed(3)
    assert generated(free, prompts) == first and len({tuple(completion) for completion in first}) > 8


def test_reward_rises(make):
    def sevens(completions, **_):
        return [completion[0]["content"].count("7") / 6 for completion in completions]

    trainer = make(reward=sevens, max_steps=30, learning_rate=0.03, per_device_train_batch_size=32, num_generations=8)
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert rewards[0] < 0.2 and sum(rewards[-5:]) / 5 > 0.8


def test_the_reference_model_is_an_encoder_decoder_too(make):
    trainer = make(beta=0.5, max_steps=3, num_iterations=2)
    trainer.train()
    kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert kl[0] == 0 and kl[-1] > 0


def test_an_adapter_learns_and_its_base_does_not(make):
    trainer = make(peft_config=lora_config(Lora(r=4), "SEQ_2_SEQ_LM"), beta=0.1)
    before = weights_of(trainer)
    trainer.train()
    after = weights_of(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)
    assert any("encoder" in name for name in changed) and any("decoder" in name for name in changed)


def test_resume_inside_a_rollout_is_bit_identical(make):
    settings = {"save_strategy": "steps", "save_steps": 3, "num_iterations": 2, "steps_per_generation": 2, "beta": 0.1}
    whole = make(folder="whole", **settings)
    whole.train()
    halves = make(folder="halves", **settings)
    halves.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-3")
    assert_identical(weights_of(whole), weights_of(halves))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"use_vllm": True}, "trainer.use_vllm: true, but the model is an encoder-decoder: vLLM does not support T5"),
        ({"use_transformers_continuous_batching": True}, "trainer.use_transformers_continuous_batching: .*paged cache"),
        ({"cast_lm_head_to_fp32": True}, "trainer.cast_lm_head_to_fp32: .*parts of a decoder"),
        ({"shared_prefix": True}, "trainer.shared_prefix: true, but prompts cannot be shared: the model is an enc"),
    ],
)
def test_what_is_for_decoders_only_is_refused(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_the_class_is_chosen_by_the_model(tiny):
    assert trainer_class(EmpathyGRPOTrainer, tiny[0]) is EmpathyGRPOTrainer
    model, _ = tiny_t5()
    chosen = trainer_class(EmpathyGRPOTrainer, get_peft_model(model, LoraConfig(target_modules=["q"])))
    assert chosen.__mro__[1:3] == (EncoderDecoderMixin, EmpathyGRPOTrainer)
    assert chosen.__name__ == "EncoderDecoderEmpathyGRPOTrainer"


PAIRS = [("number 1", "3"), ("number 2 lost my keys", "So sad, I am sorry."), ("keys", "number 9 8"), ("sad", "joyful")]


def rows(pairs=PAIRS):
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": prompt}] for prompt, _ in pairs],
            "completion": [[{"role": "assistant", "content": completion}] for _, completion in pairs],
        }
    )


def make_trainer(folder, model=None, **settings):
    fresh, tokenizer = tiny_t5()
    model, args = model or fresh, quiet_config(folder, Seq2SeqConfig, **settings)
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


@pytest.mark.faults
def test_long_prompts_lose_their_beginning_and_long_completions_their_end():
    _, tokenizer = tiny_t5()
    whole, cut = encode(rows(), tokenizer, None), encode(rows(), tokenizer, 5)
    assert cut["input_ids"] == [ids[-5:] for ids in whole["input_ids"]]
    assert cut["labels"] == [ids[:5] for ids in whole["labels"]]
    lengths = [(len(row["input_ids"]), len(row["labels"])) for row in whole]
    assert token_lengths(tokenizer, rows(), reads_apart=True) == lengths
    counted = truncation(SimpleNamespace(max_length=5, packing=False), lengths, reads_apart=True)
    prompts, completions = (sum(tokens > 5 for tokens in part) for part in zip(*lengths, strict=True))
    assert (counted.prompts, counted.completions, counted.dropped) == (prompts, completions, 0)
    assert counted.needed == max(map(max, lengths))


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
    trainer = make_trainer(tmp_path, max_steps=60, learning_rate=0.03, lr_scheduler_type="constant", seed=1)
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
        ({"packing": True}, "packing: true, but the model is an encoder-decoder: its prompt and its completion are"),
        ({"completion_only_loss": False}, "completion_only_loss: false, but the model is an encoder-decoder"),
        ({"assistant_only_loss": True}, "assistant_only_loss: true"),
        ({"loss_type": "dft"}, "loss_type: 'dft'"),
    ],
)
def test_settings_for_one_sequence_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        quiet_config(tmp_path, Seq2SeqConfig, **settings)


def test_the_config_has_the_defaults_of_sft(tmp_path):
    ours = Seq2SeqConfig(output_dir=str(tmp_path), bf16=False)
    found = (ours.learning_rate, ours.logging_steps, ours.max_length, ours.gradient_checkpointing)
    assert found == (2e-5, 10, 1024, True)
    assert ours.generation_config is None
