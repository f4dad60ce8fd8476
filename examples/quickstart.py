# %% [markdown]
# # Quickstart: train, evaluate, explain and talk, from Python
#
# GRPO teaches a small language model to say which of four emotions a sentence expresses, and which words tell it so. The
# model has 0.8 million parameters and the data come with the package: it needs no GPU and no download.
# `docs/python.md` explains each step.

# %%
import os

from empathy_trl import (
    Chat,
    EmpathyGRPOConfig,
    EmpathyGRPOTrainer,
    compare,
    evaluate_model,
    explain_rewards,
    generate,
    load_data,
    load_model,
    load_recipe,
    load_rewards,
    run_recipe,
)

SHORT = "QUICKSTART_SHORT" in os.environ  # a few steps, to see whether everything runs
WARM_START_STEPS, STEPS, TEST_ROWS = (2, 2, 8) if SHORT else (150, 40, 120)

# %% [markdown]
# ## A model that knows the format
#
# GRPO compares completions of the same prompt, so some of them must be right. The first stage of the recipe `ed4_tiny` makes
# a model from nothing and shows it a quarter of the rows. With a pretrained model, give its name to the trainer instead.

# %%
overrides = ["--stages.grpo", "null", "--stages.sft.trainer.max_steps", str(WARM_START_STEPS)]
run = run_recipe("ed4_tiny", [*overrides, "--evaluation.limit", str(TEST_ROWS)])
model, tokenizer = load_model(run / "sft")

# %% [markdown]
# ## Data and rewards

# %%
train, test = load_data("ed4", "train"), load_data("ed4", "test")
print(train[0]["prompt"][-1]["content"], "->", train[0]["label"])

rewards = load_rewards(
    {
        "emotion_accuracy": {},  # 1 for the right emotion
        "format": {"weight": 0.3, "tags": ["reasoning", "answer"]},  # 1 for <reasoning>…</reasoning><answer>…</answer>
    }
)

# %% [markdown]
# ## Train
#
# `EmpathyGRPOTrainer` takes what `trl.GRPOTrainer` takes, and the weights from the rewards.

# %%
trainer = EmpathyGRPOTrainer(
    model=model,
    reward_funcs=rewards,
    args=EmpathyGRPOConfig(
        output_dir="outputs/quickstart",
        max_steps=STEPS,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=24,
        temperature=1.3,
        learning_rate=3e-4,
        logging_steps=10,
        bf16=False,
        report_to="none",
    ),
    train_dataset=train,
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model("outputs/quickstart/model")

# %% [markdown]
# ## Evaluate
#
# The stage says how: which data, how completions are parsed, which metrics. Every figure has a 95 % interval, and two
# evaluations of the same rows are compared pairwise.

# %%
stage = load_recipe("ed4_tiny").stages["grpo"]
result = evaluate_model(
    model=trainer.model,
    tokenizer=tokenizer,
    stage=stage,
    model_name="quickstart",
    output_dir="outputs/quickstart/model",
    limit=TEST_ROWS,
)
print(result["metrics"]["accuracy"])

change = compare(run / "sft", "outputs/quickstart/model")["metrics"]["accuracy"]
print(f"accuracy {change['a']:.3f} -> {change['b']:.3f}, p = {change['p']:.2g}")

# %% [markdown]
# ## Explain what replies earn

# %%
rows = test[:4]
completions = generate(trainer.model, tokenizer, rows["prompt"], max_new_tokens=24)
print(explain_rewards(rewards, rows["prompt"], completions, label=rows["label"]))

# %% [markdown]
# ## Talk to it
#
# The recipe says how the model is prompted, so that it reads what it read in training.

# %%
chat = Chat(trainer.model, tokenizer, recipe="ed4_tiny", temperature=0)
print(chat.say("My best friend is moving away and I cried all night."))
