"""How to use a published model: code that needs transformers (and peft for an adapter) alone, and the package's commands."""

import json
from textwrap import dedent

from empathy_trl.model_card.stage_files import StageFiles

# data.name -> what somebody says, in an example
SAYS = {
    "ed4": "Somebody broke into our car last night and I still check every lock twice.",
    "wassa": "Our street was flooded, and my grandmother had to be carried out of her house.",
    "dialogues": "I did not get the job that I was hoping for.",
    "redial": "Hi! I had an awful week. Which film would cheer me up?",
    "empath": "I keep thinking about the exam that I failed yesterday.",
}
# data.name -> text, and its pair where the model reads two
SCORED = {
    "wassa": ("I am so sorry that you lost your home. Is your family safe?",),
    "emotions": ("I open the letter box every hour, although the answer is not due before Friday.",),
    "intents": ("That must have been a hard year for you.",),
    "epitome": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
    "rated_replies": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
}
PAIRED = ("epitome", "rated_replies")
TAGS = {"empath": ("react", "respond", "reflect"), "ed4": ("reasoning", "answer"), "wassa": ("reasoning", "answer")}


def snippet(files: StageFiles, repo_id: str, merged: bool) -> str:
    """Return Python that loads the model and shows what it says to an example."""
    return _scoring(files, repo_id) if files.scores_texts else _writing(files, repo_id, merged)


def _writing(files: StageFiles, repo_id: str, merged: bool) -> str:
    kind = "Seq2SeqLM" if files.is_encoder_decoder else "CausalLM"
    if files.is_adapter and not merged:
        imports = f"from peft import AutoPeftModelFor{kind}\nfrom transformers import AutoTokenizer"
        load = f"AutoPeftModelFor{kind}.from_pretrained(name)  # the adapter, and by itself the model it is for"
    else:
        imports = f"from transformers import AutoModelFor{kind}, AutoTokenizer"
        load = f"AutoModelFor{kind}.from_pretrained(name)"
    new = "output[0]" if files.is_encoder_decoder else 'output[0, inputs["input_ids"].shape[1] :]'
    tags = TAGS.get(files.data.get("name"))
    return dedent(
        """
        {imports}

        name = {name}
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = {load}

        messages = [
        {messages}
        ]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, {sampling})
        reply = tokenizer.decode({new}, skip_special_tokens=True)
        {show}
        """
    ).format(
        imports="import re\n\n" * (tags is not None) + imports,
        name=_literal(repo_id),
        load=load,
        messages="\n".join(map(_message, example_messages(files.data))),
        sampling=_sampling(files.stage.get("evaluation") or {}),
        new=new,
        show=_show(tags),
    )


def example_messages(data: dict) -> list[dict]:
    """Return a prompt as the model was trained on, for what `SAYS` has of its data."""
    from empathy_trl.chat.prompts import Prompts

    name = data.get("name")
    said = SAYS.get(name, "I did not sleep last night.")
    return Prompts(name=name, data=data).messages([{"role": "user", "content": said}])


def _message(message: dict) -> str:
    """Return a message as Python, a line of its text in each line."""
    lines = [_literal(line) for line in message["content"].splitlines(keepends=True)] or ['""']
    content = "\n        ".join(["(", *lines]) + "\n    )" if len(lines) > 1 else lines[0]
    return f'    {{"role": {_literal(message["role"])}, "content": {content}}},'


def _literal(content: str) -> str:
    """Return a text as Python writes it, in double quotes."""
    return json.dumps(content, ensure_ascii=False)


def _sampling(evaluation: dict) -> str:
    """Return the arguments of `generate` with which the model was evaluated."""
    temperature = evaluation.get("temperature", 0.0)
    arguments = {"max_new_tokens": evaluation.get("max_new_tokens", 300), "do_sample": bool(temperature)}
    if temperature:
        arguments |= {
            "temperature": temperature,
            "top_p": evaluation.get("top_p", 1.0),
            "top_k": evaluation.get("top_k", 0),
        }
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _show(tags: tuple[str, ...] | None) -> str:
    if tags is None:
        return "print(reply)"
    pattern = f'r"<({"|".join(tags)})>(.*?)</\\1>"'
    return f'print(reply)\nparts = dict(re.findall({pattern}, reply, flags=re.DOTALL))\nprint(parts.get("{tags[1]}"))'


def _scoring(files: StageFiles, repo_id: str) -> str:
    name = files.data.get("name")
    texts = SCORED.get(name, SCORED["emotions"])
    said = "  # what somebody says, and an answer to it" if name in PAIRED else ""
    return dedent(
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        name = {name}
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name)

        texts = {texts}{said}
        inputs = tokenizer(*texts, truncation=True, max_length={length}, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        {show}
        """
    ).format(
        name=_literal(repo_id),
        texts=f"[{', '.join(map(_literal, texts))}]",
        said=said,
        length=files.config.get("text_max_length", 512),
        show=_show_scores(files),
    )


def _show_scores(files: StageFiles) -> str:
    if files.task == "regress":
        return "print({model.config.id2label[i]: round(x, 2) for i, x in enumerate(logits.tolist())})"
    # several groups of labels stand side by side, each with a softmax of its own
    return dedent(
        """\
        start = 0
        for group, labels in model.config.label_groups:
            shares = logits[start : start + len(labels)].softmax(dim=0)
            start += len(labels)
            print(group, {label: round(share, 3) for label, share in zip(labels, shares.tolist())})"""
    )


def commands(files: StageFiles, repo_id: str) -> str:
    """Return the command lines of this package for the model."""
    recipe = f"hub:{repo_id}"
    lines = [] if files.scores_texts else [f"python recipes/chat.py --model {repo_id}"]
    stage = f" --stage {files.name}" if files.name != list(files.recipe["stages"])[-1] else ""
    return "\n".join([*lines, f"python recipes/evaluate.py --recipe {recipe}{stage} --model {repo_id} --split test"])
