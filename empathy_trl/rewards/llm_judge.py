"""How good is the reply, in the opinion of another language model?

The judge may be any server that speaks OpenAI's chat completions, hosted or local. What it is asked, how its answer is
read, and what happens when it does not answer is in `empathy_trl.models.api` and `empathy_trl.rewards.judge_answers`.
"""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import fmean

from empathy_trl.errors import InvalidAnswer, JudgeFailed, UserError
from empathy_trl.models.api import Cache, checked_base_url, default_folder, question_key, refuse_keys
from empathy_trl.rewards.base import ReadsReply
from empathy_trl.rewards.judge_answers import RUBRICS, messages, parse_scores, response_format
from empathy_trl.tags import completion_text

logger = logging.getLogger(__name__)

SAMPLING = {"temperature": 0, "max_tokens": 300}
NOT_SAMPLING = ("model", "messages", "response_format", "n", "stream")  # they have one right value here


@dataclass
class LLMJudge(ReadsReply):
    """Mean over the aspects of (score − lowest) / (highest − lowest), the scores given by a language model.

    An empty reply gets 0 without being shown to the judge. A reply for which no valid answer comes, after all retries,
    gets None; the reasons are counted and logged. Equal questions of a batch are asked once, and valid answers are kept
    on disk.
    Metrics: `judge/<aspect>` (mean over the scored replies, on the scale from 0 to 1), `judge/failure_share` (of all
    replies) and `judge/cache_hit_share` (of the replies that are not empty).

    Range: [0, 1]. It is a coroutine function; TRL awaits all such rewards at the same time.

    Args:
        base_url: of the server, up to and without `/chat/completions`.
        model: its name there.
        aspects: what is graded: names of `rubric` or of `empathy_trl.rewards.judge_answers.RUBRICS` (empathy, informativeness,
            recommendation, engagement, overall). By default the names of `rubric`, or `[empathy]` without one.
        rubric: your own aspects: name -> a sentence that says what deserves the highest score.
        scale: lowest and highest score.
        api_key_env: NAME of the environment variable that holds the API key. It is read when the judge is asked. A
            server on this machine may do without; null sends no key anywhere.
        structured: ask for an answer that follows a JSON schema; false asks for it in words only.
        sampling: further members of the request, over `temperature: 0, max_tokens: 300`; null leaves one of these out.
        concurrency: how many requests may be under way, per process.
        timeout: seconds for one request, from connecting to the last byte.
        retries: how often a question is asked again that was not answered, or not in the form asked for.
        wait: seconds; the first wait before asking again is between 0 and this, the bound doubles every time. A
            server's Retry-After goes first, up to a minute; one of more than two minutes ends the asking.
        max_failure_share: the run stops if a larger share of a batch's replies stays without a score.
        cache_dir: folder of the answers (`$EMPATHY_TRL_CACHE/judge` or `~/.cache/empathy_trl/judge` by default); null
            keeps none.
        reply_tags: tags that hold the reply; empty takes the whole completion.

    Raises:
        UserError: a parameter is impossible, or looks like an API key.
    """

    base_url: str
    model: str
    aspects: list[str] | None = None
    rubric: dict[str, str] = field(default_factory=dict)
    scale: list[float] = field(default_factory=lambda: [1, 5])
    api_key_env: str | None = "OPENAI_API_KEY"
    structured: bool = True
    sampling: dict = field(default_factory=dict)
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 4
    wait: float = 1.0
    max_failure_share: float = 0.2
    cache_dir: str | None = field(default_factory=default_folder)

    __name__ = "llm_judge"
    card = "good grades by a language model"
    misses = "language models like long, smooth and flattering answers"
    citations = ("zheng2023",)
    # where and how patiently is asked: changing them makes no other run of it
    operational = (
        "base_url",
        "api_key_env",
        "concurrency",
        "timeout",
        "retries",
        "wait",
        "max_failure_share",
        "cache_dir",
    )

    def __post_init__(self):
        refuse_keys(asdict(self))
        self.base_url = checked_base_url(self.base_url)
        if not self.model:
            raise UserError("model: expected the model's name on the server")
        if self.aspects is None:
            self.aspects = list(self.rubric) or ["empathy"]
        self._check_aspects()
        self._check_numbers()
        self._check_sampling()

    def _check_aspects(self):
        known = RUBRICS | self.rubric
        for name in [*self.aspects, *self.rubric]:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise UserError(f"rubric: {name!r} is not a name for an aspect (letters, digits and _, a letter first)")
            if name not in known:
                raise UserError(
                    f"aspects: unknown aspect {name} (choices: {', '.join(known)}, or your own in `rubric`)"
                )
            if name not in self.aspects:
                raise UserError(f"rubric: {name} is not among aspects ({', '.join(self.aspects)})")
        if not self.aspects or len(set(self.aspects)) < len(self.aspects):
            raise UserError(f"aspects: expected different names, at least one, got {self.aspects}")
        empty = [name for name, text in self.rubric.items() if not text.strip()]
        if empty:
            raise UserError(f"rubric: {empty[0]} is empty; expected what deserves the highest score")

    def _check_numbers(self):
        if len(self.scale) != 2 or not all(map(math.isfinite, self.scale)) or not self.scale[0] < self.scale[1]:
            raise UserError(f"scale: expected [lowest, highest], got {self.scale}")
        for name, lowest in (("concurrency", 1), ("retries", 0), ("wait", 0)):
            if not getattr(self, name) >= lowest:
                raise UserError(f"{name}: {getattr(self, name)} must not be below {lowest}")
        if not self.timeout > 0:
            raise UserError(f"timeout: {self.timeout} must be above 0")
        if not 0 <= self.max_failure_share <= 1:
            raise UserError(f"max_failure_share: {self.max_failure_share} must be between 0 and 1")

    def _check_sampling(self):
        taken = [name for name in self.sampling if name in NOT_SAMPLING]
        if taken:
            raise UserError(f"sampling: {', '.join(taken)} cannot be set here; expected settings such as seed or top_p")
        try:
            json.dumps(self.sampling, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"sampling: cannot be sent as JSON: {error}") from error

    async def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            JudgeFailed: too many questions stay without an answer, or none can be answered.
            UserError: the cache cannot be used.
        """
        try:
            keys, scores, kept = await self._answers(prompts, completions)
        except JudgeFailed as error:
            raise JudgeFailed(f"rewards.{self.__name__}: {error}") from error
        if keys and "log_metric" in columns:
            asked = [key for key in keys if key]
            hit_share = sum(key in kept for key in asked) / max(1, len(asked))
            self._log(columns["log_metric"], [scores[key] for key in asked], hit_share, len(keys))
        return [self._reward(scores[key]) for key in keys]

    async def grade(
        self, prompts, completions, each: Callable[[int, dict[str, float]], object] | None = None
    ) -> list[dict[str, float] | None]:
        """Return aspect -> score on the judge's own scale for every completion, None where no valid answer comes.

        An empty reply gets the lowest score for every aspect, unasked.

        Args:
            prompts, completions: each a text or chat messages, as rewards get them.
            each: called with the number of a completion and its scores, as soon as these are known.

        Raises:
            JudgeFailed, UserError: as `__call__`; what `each` was called with until then is valid.
        """
        keys, scores, _ = await self._answers(prompts, completions, each)
        return [scores[key] for key in keys]

    async def _answers(self, prompts, completions, each: Callable | None = None) -> tuple[list, dict, set]:
        """Return the key of each row's question (None for an empty reply), key -> scores, and the keys known before."""
        keys, requests, rows = [], {}, defaultdict(list)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            reply = self.reply(completion)
            request = self._request(prompt, reply) if reply else None
            keys.append(question_key(request) if request else None)
            requests[keys[row]] = request
            rows[keys[row]].append(row)

        def tell(key: str | None, found: dict[str, float]) -> dict[str, float]:
            for row in rows[key] if each else ():
                each(row, found)
            return found

        scores = {key: tell(key, found) for key in rows if (found := self._kept(key))}
        kept = set(scores)
        unknown = {key: requests[key] for key in rows if key not in kept}
        if unknown:
            times = {key: len(rows[key]) for key in unknown}
            read = lambda key, answer: tell(key, self._read(key, answer))
            scores |= await self._ask(unknown, times, read, len(keys))
        return keys, scores, kept

    def _request(self, prompt: str | list[dict], reply: str) -> dict:
        """Return the body of the request that asks about one reply; system messages are the policy's business."""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        conversation = [
            {"role": turn["role"], "content": completion_text([turn])} for turn in turns if turn["role"] != "system"
        ]
        rubric = {name: (RUBRICS | self.rubric)[name] for name in self.aspects}
        asked = {"model": self.model, "messages": messages(rubric, self.scale, conversation, reply)}
        if self.structured:
            asked["response_format"] = response_format(self.aspects, self.scale)
        return asked | {name: value for name, value in (SAMPLING | self.sampling).items() if value is not None}

    def _kept(self, key: str | None) -> dict[str, float] | None:
        """Return the scores of a question that was answered before, None otherwise; the lowest ones for no question."""
        if key is None:
            return dict.fromkeys(self.aspects, float(self.scale[0]))
        answer = Cache(self.cache_dir).get(key)
        try:
            return None if answer is None else parse_scores(answer, self.aspects, self.scale)
        except InvalidAnswer:  # somebody damaged the file
            return None

    def _read(self, key: str, answer: str) -> dict[str, float]:
        """Return the scores in an answer and keep them; InvalidAnswer if it is not as asked."""
        scores = parse_scores(answer, self.aspects, self.scale)
        Cache(self.cache_dir).put(key, json.dumps(scores))
        return scores

    async def _ask(self, requests: dict, times: dict, read: Callable, total: int) -> dict:
        """Return key -> scores, None for a question that stays without; see `ask_all`."""
        from empathy_trl.models.api import Client, Failures, ask_all

        failures = Failures(total, self.max_failure_share, f"{self.model} at {self.base_url}")
        settings = (self.base_url, self.api_key_env, self.timeout, self.retries, self.wait, self.concurrency)
        async with Client(*settings) as client:
            scores = await ask_all(client, requests, times, read, failures)
        if failures.failures:
            logger.warning("rewards.%s: %s", self.__name__, failures.summary())
        return scores

    def _reward(self, scores: dict[str, float] | None) -> float | None:
        return None if scores is None else fmean(map(self._share, scores.values()))

    def _share(self, score: float) -> float:
        low, high = self.scale
        return (score - low) / (high - low)

    def _log(self, log_metric, asked: list[dict | None], hit_share: float, replies: int):
        scored = [scores for scores in asked if scores is not None]
        log_metric("judge/failure_share", (len(asked) - len(scored)) / replies)
        log_metric("judge/cache_hit_share", hit_share)
        for name in self.aspects if scored else ():
            log_metric(f"judge/{name}", fmean(self._share(scores[name]) for scores in scored))
