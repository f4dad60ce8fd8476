"""Chat templates: chosen ones, guards, arguments, and the same prompt wherever it is rendered."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation
from tokenizers.processors import TemplateProcessing
from transformers import (
    AddedToken,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)
from trl import SFTConfig, SFTTrainer

from empathy_trl.chat.local import KeyValueCache, LocalModel
from empathy_trl.chat.reply import Sampling
from empathy_trl.errors import UserError
from empathy_trl.models import likelihood
from empathy_trl.models import load as models
from empathy_trl.models.batching import check_prompts, prompt_tokens, render
from empathy_trl.models.likelihood import PolicyScorer
from empathy_trl.models.load import check_tags, load_or_build
from empathy_trl.models.templates import (
    check_learned_prompts,
    check_template_arguments,
    pin_template_arguments,
    set_template,
)
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.tags import CHAT_TEMPLATES
from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from tests.models.small_qwen2 import TAGS, TEXTS, recipe_model, save_tiny, sizes
from tests.trainers.tiny_t5 import tiny_t5

SYSTEM = "Instruction: given a dialog context, you need to response empathically."
GROUNDED = f"{SYSTEM}\n[KNOWLEDGE] Paris is in France.\nIt is large."


def conversation(system, *turns):
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


@pytest.mark.parametrize(
    "messages, expected",
    [
        (conversation(SYSTEM, "Hi!"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation(SYSTEM, "Hi!", "Hello.", "I am sad."), f"{SYSTEM} [CONTEXT] Hi! EOS Hello. EOS I am sad.<eos>"),
        (conversation(GROUNDED, "Hi!", "Yes?", "Where?"),
         f"{SYSTEM} [CONTEXT] Hi! EOS Yes? EOS Where? [KNOWLEDGE] Paris is in France.\nIt is large.<eos>"),
        (conversation("[KNOWLEDGE] Paris.", "Where?"), "[CONTEXT] Where? [KNOWLEDGE] Paris.<eos>"),
        (conversation(None, "Hi!"), "[CONTEXT] Hi!<eos>"),
        (conversation(f"  {SYSTEM}\n", "  Hi! \n"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation("Say [KNOWLEDGE] aloud.", "Hi!"), "Say [KNOWLEDGE] aloud. [CONTEXT] Hi!<eos>"),
    ],
    ids=["one turn", "three turns", "knowledge", "knowledge alone", "no instruction", "white space", "no line of its own"],
)  # fmt: skip
@pytest.mark.parametrize("generation", [True, False])
def test_godel(messages, expected, generation):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
    assert rendered == expected
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]


def test_t5s_own_tokenizer_which_appends_the_end_itself_gets_it_once():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in "▁[]!NOTEXCHSYaiouy.")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert tokenizer("Hi!")["input_ids"][-1] == tokenizer.eos_token_id and tokenizer.chat_template is None
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    messages = conversation("Say.", "Hi!", "You.", "Hi.")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == "Say. [CONTEXT] Hi! EOS You. EOS Hi.</s>"


def test_the_template_is_saved_with_the_tokenizer(tmp_path):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATES["godel"]


CHAT = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def base(tmp_path):
    """Make a folder with a base model, which has no chat template; its end token ends texts."""

    def make(*tokens):
        tokenizer = build_tokenizer(TEXTS, 300, TAGS)
        tokenizer.chat_template = None
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        for part in (build_model(sizes(), tokenizer, seed=0), tokenizer):
            part.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.mark.parametrize("tokens", [(), ("<|im_start|>", "<|im_end|>")])
def test_chatml_ends_turns_with_a_token_that_a_base_model_has(base, tmp_path, tokens):
    folder = base(*tokens)
    with pytest.raises(UserError, match="no chat template .*model.chat_template: chatml for a base model, godel"):
        models.load_model(folder)
    model, tokenizer = models.load_model(folder, chat_template="chatml")
    end = "<|im_end|>" if tokens else tokenizer.eos_token
    expected = f"<|im_start|>user\nHi!{end}\n<|im_start|>assistant\nHello.{end}\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == expected
    ids = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokenizer.decode(ids) == f"<|im_start|>user\nHi!{end}\n<|im_start|>assistant\n"
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids(end) in (ends if isinstance(ends, list) else [ends])
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "saved")
    again, saved = models.load_model(tmp_path / "saved")
    assert saved.apply_chat_template(CHAT, tokenize=False) == expected
    assert again.generation_config.eos_token_id == ends


def test_chatml_begins_with_the_token_that_begins_the_models_texts(base):
    _, tokenizer = models.load_model(base(), chat_template="chatml")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    pair = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[pair])
    set_template(tokenizer, "chatml", "m")
    assert tokenizer.apply_chat_template(CHAT, tokenize=False).startswith("<s><|im_start|>user\n")


def test_the_template_of_a_file_or_of_another_model(base, full, tmp_path):
    folder, own = base(), AutoTokenizer.from_pretrained(full).chat_template
    assert models.load_model(folder, chat_template=str(full))[1].chat_template == own
    file = tmp_path / "mine.jinja"
    file.write_text("{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{{ eos_token }}{% endfor %}")
    _, tokenizer = models.load_model(folder, chat_template=str(file))
    end = tokenizer.eos_token
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == f"user: Hi!{end}assistant: Hello.{end}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for turn in messages %}\n{{ turn.content }", "mine.jinja, line 2: not a Jinja template: "),
        ("", "the template .*mine.jinja leaves out the user's message; expected a template that writes the content of each"),
        ("{% for turn in messages %}{{ turn.content }}<|eot_id|>{% endfor %}",
         "mine.jinja ends a reply with '<|eot_id|>', which contains no special token of .*expected .* ends it with <eos>"),
        (None, r"model.chat_template: no file .*mine.jinja"),
    ],
)  # fmt: skip
def test_a_template_that_is_none_or_ends_no_reply_is_refused(base, tmp_path, text, message):
    file, folder = tmp_path / "mine.jinja", base()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        models.load_model(folder, chat_template=str(file))


def test_a_model_without_a_template_gives_none(base, full):
    folder = base()
    with pytest.raises(UserError, match="model.chat_template: .*base has no chat template itself"):
        models.load_model(full, chat_template=str(folder))


# Chat templates that do not take every conversation

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
ALTERNATING_BEHIND_SYSTEM = (
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    + ALTERNATING.replace("in messages", "in turns")
)
LOSES_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
BODY = "{% for turn in messages %}{{ turn.role[0] }}:{{ turn.content }};{% endfor %}"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("refuses", "roles", "rendered"),
    [
        ("", "system system user user", "s:0;s:1;u:2;u:3;"),
        (NO_SYSTEM, "user user assistant", "u:0;u:1;a:2;"),
        (NO_SYSTEM, "system user assistant user", "u:0\n\n1;a:2;u:3;"),
        (NO_SYSTEM, "system assistant user", "u:0;a:1;u:2;"),
        (LOSES_SYSTEM, "system user", "u:0\n\n1;"),
        (NO_SYSTEM + ALTERNATING, "system user user", "u:0\n\n1\n\n2;"),
        (NO_SYSTEM + ALTERNATING, "user assistant assistant user", "u:0;a:1\n\n2;u:3;"),
        (ALTERNATING_BEHIND_SYSTEM, "system user user", "s:0;u:1\n\n2;"),
        (ALTERNATING_BEHIND_SYSTEM, "system assistant user", "u:0;a:1;u:2;"),
    ],
)
def test_a_template_gets_the_conversation_as_it_takes_it(refuses, roles, rendered):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.chat_template = refuses + BODY
    set_template(tokenizer, None, "m")
    turns = [{"role": role, "content": str(number)} for number, role in enumerate(roles.split())]
    assert render(tokenizer, turns, tokenize=False) == rendered
    assert tokenizer.chat_template.endswith(refuses + BODY)
    once = tokenizer.chat_template
    set_template(tokenizer, None, "m")
    assert tokenizer.chat_template == once, "a guarded template needs no other guard"


@pytest.mark.faults
def test_a_template_that_takes_everything_stays_as_it_is_and_so_does_its_white_space():
    tokenizer = build_tokenizer(TEXTS, 300)
    user = [{"role": "user", "content": "Hi"}]
    for refuses, same in (("", True), (NO_SYSTEM, False)):
        tokenizer.chat_template = f"\n  {{% if true %}}\n{refuses}\n {BODY} {{% endif %}}\n"
        plain, own = tokenizer.apply_chat_template(user, tokenize=False), tokenizer.chat_template
        set_template(tokenizer, None, "m")
        assert (tokenizer.chat_template == own) == same
        assert tokenizer.apply_chat_template(user, tokenize=False) == plain
    tokenizer.chat_template = {"default": NO_SYSTEM + BODY, "tool_use": BODY}
    set_template(tokenizer, None, "m")
    assert tokenizer.chat_template["default"] != NO_SYSTEM + BODY and tokenizer.chat_template["tool_use"] == BODY


@pytest.mark.faults
def test_what_no_guard_can_mend_names_the_tokenizer_the_roles_and_the_rule():
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.name_or_path, tokenizer.chat_template = "me/strict", ALTERNATING + BODY
    set_template(tokenizer, None, "me/strict")
    good, bad = ([{"role": role, "content": "a"} for role in roles] for roles in (["user"], ["assistant", "user"]))
    message = r"me/strict: its chat template refuses the messages \(assistant, user\): roles must alternate"
    for ask in (prompt_tokens, check_prompts):
        with pytest.raises(UserError, match=message):
            ask(tokenizer, [good, good, bad])
    check_prompts(tokenizer, [good])


TRLS_TEMPLATES = ("qwen3", "qwen3_5_think", "qwen3_5_nothink", "gemma3", "llama3_2", "qwen2_5")
NO_THOUGHTS = {"enable_thinking": False}


def of_trl(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


# what SmolLM3's does: facts in front of the instruction, which may switch thoughts off, and an empty thought in the prompt then
LIKE_SMOLLM3 = """\
{%- set instruction = messages[0].content if messages[0].role == "system" else "" -%}
{%- set thinks = (enable_thinking | default(true)) and "/no_think" not in instruction -%}
{{- "<|system|>Year: " ~ strftime_now("%Y") ~ ", thoughts: " ~ thinks ~ "\n" ~ instruction | replace("/no_think", "") | trim -}}
{%- set nothing = "" if thinks else "<think>\n\n</think>\n" -%}
{%- for turn in messages if turn.role != "system" -%}
    {{- "<|" ~ turn.role ~ "|>" ~ (nothing if turn.role == "assistant") ~ turn.content ~ eos_token ~ "\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|assistant|>" ~ nothing -}}{%- endif -%}
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (NO_SYSTEM + ALTERNATING + BODY, None),
        *((of_trl(name), NO_THOUGHTS if name.startswith("qwen3") else None) for name in TRLS_TEMPLATES),
        (LIKE_SMOLLM3, None),
        (LIKE_SMOLLM3, NO_THOUGHTS),
        (None, None),
    ],
    ids=["strict", *TRLS_TEMPLATES, "smollm3", "smollm3 without thoughts", "smollm2"],
)
def test_training_evaluation_chat_and_scorer_ask_the_same(request, tmp_path, template, arguments):
    template = template or (request.getfixturevalue("smollm2") / "chat_template.jinja").read_text()
    save_tiny(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    model, tokenizer = load_or_build(recipe_model(tmp_path, chat_template_kwargs=arguments), seed=0)
    prompt = conversation("Be kind.", "Hi!", "You.", "My dog died.")
    completion = [{"role": "assistant", "content": "I cried."}]
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **arguments or {})
    if template.startswith(NO_SYSTEM):
        assert text == "u:Be kind.\n\nHi!;a:You.;u:My dog died.;"
    settings = {"report_to": "none", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2}
    rows = Dataset.from_list([{"prompt": prompt, "completion": completion}] * 2)
    sft = SFTTrainer(model, SFTConfig(tmp_path / "sft", **settings), train_dataset=rows, processing_class=tokenizer)
    assert re.match(re.escape(text) + r"\s*(a:)?I cried\.", tokenizer.decode(sft.train_dataset[0]["input_ids"]))
    plain = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")  # as TRL itself loads it
    plain.chat_template = template
    pin_template_arguments(plain, arguments)
    grpo = EmpathyGRPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        EmpathyGRPOConfig(tmp_path / "grpo", num_generations=2, **settings),
        rows,
        processing_class=plain,
    )
    asked = {
        "rollout": grpo._tokenize_prompts([prompt])[0][0],
        "evaluation": prompt_tokens(tokenizer, [prompt])[0],
        "chat": LocalModel(model, tokenizer, Sampling())._encode(prompt, KeyValueCache())[1],
        "scorer": PolicyScorer(lambda: model, tokenizer, 1)._context(prompt, "")[0],
        "perplexity": likelihood._encoded(model, tokenizer, [prompt], ["I cried."])[0][0],
    }
    sft.save_model(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")  # as a user of the model card does
    asked["card"] = saved.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert {name: tokenizer.decode(ids) for name, ids in asked.items()} == dict.fromkeys(asked, text)


@pytest.mark.faults
def test_a_flag_in_the_instruction_switches_thoughts_off():
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.chat_template = LIKE_SMOLLM3
    on, off = (prompt_text(tokenizer, conversation(f"Be kind.{flag}", "Hi!")) for flag in ("", " /no_think"))
    assert on.endswith("thoughts: True\nBe kind.<|user|>Hi!<eos>\n<|assistant|>")
    assert off.endswith("thoughts: False\nBe kind.<|user|>Hi!<eos>\n<|assistant|><think>\n\n</think>\n")


def prompt_text(tokenizer, messages):
    return render(tokenizer, messages, add_generation_prompt=True, tokenize=False)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "arguments", "reply", "message"),
    [
        ("qwen3", None, "Oh.", None),
        ("qwen3", None, "<think>Why?</think>Oh.", None),
        ("qwen3", NO_THOUGHTS, "Oh.", None),
        (
            "qwen3",
            NO_THOUGHTS,
            "<think>Why?</think>Oh.",
            r"row 2 .*leaves out '\\n</think>.*expected completions without",
        ),
        ("qwen3_5_think", None, "Oh.", None),
        ("nemotron_3_nano", None, "Oh.", None),
        (
            "deepseek_r1_distill",
            None,
            "Oh.",
            r"row 1 .*leaves out '<think>\\n' when .*kwargs: {enable_thinking: false}",
        ),
    ],
)
def test_sft_teaches_to_reply_to_the_prompt_that_is_asked(name, arguments, reply, message):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.chat_template = of_trl(name)
    pin_template_arguments(tokenizer, arguments)
    replies = [[{"role": "assistant", "content": each}] for each in ("Oh.", reply)]
    rows = Dataset.from_dict({"prompt": [conversation(None, "Hi!")] * 2, "completion": replies})
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_learned_prompts(tokenizer, rows)


@pytest.mark.faults
def test_arguments_of_a_template_hold_wherever_it_is_rendered():
    tokenizer, user = build_tokenizer(TEXTS, 300), conversation(None, "Hi!")
    tokenizer.chat_template = "{{ mood }}{{ thinks is defined and thinks }}"
    for arguments in (None, {}, {"thinks": True, "mood": "calm"}, {"thinks": True, "mood": "calm"}, {"thinks": False}):
        pin_template_arguments(tokenizer, arguments)
    assert render(tokenizer, user, tokenize=False) == "calmFalse"
    assert render(tokenizer, user, tokenize=False, thinks=True) == "calmTrue"
    check_template_arguments(tokenizer, {"thinks": True, "mood": "calm"})
    with pytest.raises(UserError, match="kwargs.think: has no effect, .*does not read it; did you mean thinks"):
        check_template_arguments(tokenizer, {"think": True})
    with pytest.raises(UserError, match="kwargs.thinks: 'No' is a text; expected true or false, without quotes"):
        check_template_arguments(tokenizer, {"thinks": "No"})
    tokenizer.chat_template = LIKE_SMOLLM3 + "{% if a is not defined %}{% set a = 1 %}{% endif %}{{ a }}"
    check_template_arguments(tokenizer, {"enable_thinking": False, "a": 2})
    with pytest.raises(
        UserError, match="kwargs.nothing: has no effect.*choices: (a, enable_thinking|enable_thinking, a)"
    ):
        check_template_arguments(tokenizer, {"nothing": 1})
    tokenizer.chat_template = BODY
    pin_template_arguments(tokenizer, {"think": True})
    with pytest.raises(UserError, match="kwargs.think: has no effect, .* does not read it and has no arguments"):
        check_template_arguments(tokenizer, {"think": True})


@pytest.mark.faults
def test_what_is_pinned_last_holds_and_all_arguments_stay():
    tokenizer, user = build_tokenizer(TEXTS, 300), conversation(None, "Hi!")
    tokenizer.chat_template = "{{ mood }}{{ thinks is defined and thinks }}"
    for thinks in (True, False, True):
        pin_template_arguments(tokenizer, {"thinks": thinks, "mood": None})
    assert render(tokenizer, user, tokenize=False) == "NoneTrue"
    assert tokenizer.chat_template.count("set thinks") == 2, "one line for each value, however often it is pinned"


@pytest.mark.faults
def test_a_tag_that_the_vocabulary_cannot_write_is_refused_until_it_is_a_token():
    words = Tokenizer(WordLevel({"<unk>": 0, "answer": 1}, unk_token="<unk>"))  # like T5's, without <
    words.pre_tokenizer = Punctuation()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with pytest.raises(UserError, match="rewards.format: the tag <answer> cannot be written .* makes 'answer' of it"):
        check_tags({"length": [], "format": ["answer"]}, tokenizer)
    check_tags({"length": ["answer"]}, tokenizer, optional=True)
    tokenizer.add_tokens(["<answer>", "</answer>"])
    check_tags({"format": ["answer"]}, tokenizer)


@pytest.mark.faults
def test_a_mark_that_decoding_removes_is_refused_until_it_is_an_ordinary_token(tmp_path):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.add_tokens(["</think>", "<answer>"], special_tokens=True)
    with pytest.raises(UserError, match="^m: </think> is a special token of this tokenizer.*AddedToken"):
        set_template(tokenizer, None, "m")
    with pytest.raises(UserError, match="rewards.format: the tag <answer> is a special token"):
        check_tags({"format": ["answer"]}, tokenizer)
    tokenizer.add_tokens([AddedToken("</think>", special=False)])  # as the message says
    tokenizer.save_pretrained(tmp_path)
    set_template(AutoTokenizer.from_pretrained(tmp_path), None, "m")
    tokenizer.chat_template = of_trl("gptoss")
    with pytest.raises(
        UserError, match="^m: its chat template marks .* expected a model .*<think>…</think>.*openai:NAME"
    ):
        set_template(tokenizer, None, "m")
    tokenizer.chat_template = of_trl("gemma4_v5")
    set_template(tokenizer, None, "m")
    check_template_arguments(tokenizer, NO_THOUGHTS)
    with pytest.raises(UserError, match="enable_thinking: true, but its chat template marks .* expected false"):
        check_template_arguments(tokenizer, {"enable_thinking": True})


@pytest.mark.faults
def test_prompts_are_rendered_in_one_place():
    package = Path(models.__file__).parents[1]
    places = {path.name for path in package.rglob("*.py") if ".apply_chat_template(" in path.read_text()}
    assert places == {"batching.py", "templates.py"}
