"""Aspects of replies, graded from 0 to 9 by a language model."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from empathy_trl.cli import Progress
from empathy_trl.errors import UserError, show
from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.bootstrap import mean_figures
from empathy_trl.rewards.llm_judge import LLMJudge

SOURCE = """\
@inproceedings{zhang2024ecr,
  title = {Towards Empathetic Conversational Recommender Systems},
  author = {Zhang, Xiaoyu and Xie, Ruobing and Lyu, Yougang and Xin, Xin and Ren, Pengjie and
    Liang, Mingfei and Zhang, Bo and Kang, Zhanhui and de Rijke, Maarten and Ren, Zhaochun},
  booktitle = {Proceedings of RecSys},
  year = {2024},
}
@article{zheng2023judging,
  title = {Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena},
  author = {Zheng, Lianmin and others},
  journal = {arXiv:2306.05685},
  year = {2023},
}
"""

# The aspects and the scale of Zhang et al.; the names are theirs, the sentences ours
SCALE = [0, 9]
ASPECTS = {
    "emotional_intensity": "The reply expresses strong and unmistakable feelings towards the other person.",
    "emotional_persuasiveness": "The reply takes up the other person's feelings and so draws them to what it suggests.",
    "logic": "The reply follows from the conversation and contradicts neither it nor itself.",
    "informativeness": "The reply says much that is specific and useful, rather than phrases that would fit any turn.",
    "lifelikeness": "The reply sounds like a living person in this conversation, rather than like a machine.",
}


class JudgeAspects(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, prompts=module.CONVERSATION)
    summary = "The mean score of replies from 0 to 9 for each of several aspects, in the opinion of a language model."
    source = SOURCE

    def _compute(
        self,
        predictions,
        prompts,
        base_url: str = "http://localhost:8000/v1",
        model: str = "",
        rubric: dict[str, str] | None = None,
        intervals: bool = False,
        scores: bool = False,
        **settings,
    ) -> dict:
        """Return the mean score of every aspect, `n`, the replies that have scores, and `unanswered`, those that do not.

        Args:
            base_url: of a server that speaks OpenAI's chat completions, up to and without `/chat/completions`.
            model: its name there.
            rubric: aspect -> a sentence that says what deserves a 9; by default the five aspects of ECR.
            intervals: return `{"value", "low", "high", "n"}` for each aspect, with a 95 % bootstrap interval.
            scores: add `scores`, aspect -> one score per row, None where no valid answer came.
            settings: further ones of `LLMJudge`, such as `api_key_env`, `max_failure_share`, `concurrency`, `cache_dir`.

        Raises:
            UserError: a setting is impossible.
            JudgeFailed: the judge cannot be asked, or more than `max_failure_share` of the replies stay without a score.
        """
        rubric = ASPECTS if rubric is None else rubric
        if not isinstance(rubric, dict) or not rubric or not all(isinstance(text, str) for text in rubric.values()):
            raise UserError(f"rubric: expected aspect -> what deserves a 9, got {show(rubric)}")
        judge = LLMJudge(base_url, model, rubric=rubric, scale=SCALE, reply_tags=[], **settings)
        with Progress("judge", len(predictions), "reply") as bar:
            graded = _finished(judge.grade(prompts, predictions, lambda row, found: bar.update()))
        columns = {name: [row and row[name] for row in graded] for name in judge.aspects}
        found = mean_figures(columns)
        n = sum(row is not None for row in graded)
        means = {name: found.get(name) for name in columns} if intervals else module.values(found)
        counts = {"n": n, "unanswered": len(graded) - n}
        return dict.fromkeys(columns) | means | counts | ({"scores": columns} if scores else {})


def _finished(coroutine):
    """Return what a coroutine returns, also where a loop is running already, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
