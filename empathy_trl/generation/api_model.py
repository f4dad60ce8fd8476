"""A model behind a server that speaks OpenAI's chat completions, evaluated like one that is loaded.

Prompts and completions are the same; what needs the model itself (its probabilities, its tokens) is not to be had.
"""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tqdm.auto import tqdm

from empathy_trl.errors import UserError
from empathy_trl.judge.cache import question_key
from empathy_trl.judge.errors import JudgeFailed, Unusable
from empathy_trl.judge.secret import checked_base_url, on_this_machine, refuse_keys

PREFIX = "openai:"  # of a model's name on the command line
OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
ADVICE = {
    "no connection": "Is the server running at base_url?",
    "timeout": "Lower --batch_size, which is how many requests are under way.",
    "HTTP 429": "Lower --batch_size, which is how many requests are under way.",
    "HTTP 400": "Does the model take temperature: 0 and max_tokens, and so long a prompt?",
}


@dataclass
class ApiModel:
    """Completes chat prompts over the network, greedily.

    Args:
        name: of the model on the server.
        base_url: up to and without `/chat/completions`; None takes `$OPENAI_BASE_URL`, or OpenAI's own.
        timeout: seconds for one request.
        retries: how often a prompt is sent again that was not answered.
        wait: seconds; bound of the first wait before that, which doubles every time.

    The API key is in `$OPENAI_API_KEY`, which is read when the model is asked; a server on this machine may do without.

    Raises:
        UserError: no name, no possible address, or no key for a server elsewhere.
    """

    name: str
    base_url: str | None = None
    timeout: float = 120.0
    retries: int = 4
    wait: float = 1.0

    def __post_init__(self):
        self.base_url = checked_base_url(self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        refuse_keys({"model": self.name, "base_url": self.base_url, "api_key_env": KEY})
        if not self.name:
            raise UserError(f"--model {PREFIX}: expected the model's name on the server behind the colon")
        if not os.environ.get(KEY, "").strip() and not on_this_machine(self.base_url):
            raise UserError(
                f"--model {PREFIX}{self.name}: the environment variable {KEY} is not set; export the API key for {self.base_url} "
                "in it"
            )

    def complete(
        self,
        prompts: list[list[dict]],
        *,
        batch_size: int,
        max_new_tokens: int,
        progress: bool = True,
        rows: list[int] | None = None,
        done: Callable[[int, str], object] | None = None,
    ) -> list[str]:
        """Return one completion per prompt; equal prompts are sent once.

        Args:
            prompts: one list of chat messages (`{"role", "content"}`) per example.
            batch_size: requests under way at a time.
            max_new_tokens: a completion that has not ended by then is cut off.
            progress: show a progress bar on stderr.
            rows: number of every prompt; by default 0, 1, 2, …
            done: called with the number and the completion of a prompt as soon as it is there.

        Raises:
            UserError: a prompt stays without an answer after all retries, or none can be answered. Nothing stands in for
                an answer that is missing.
        """
        asked = [self._request(prompt, max_new_tokens) for prompt in prompts]
        keys = list(map(question_key, asked))
        requests = dict(zip(keys, asked, strict=True))
        rows_of = defaultdict(list)
        for row, key in zip(range(len(prompts)) if rows is None else rows, keys, strict=True):
            rows_of[key].append(row)
        with tqdm(total=len(prompts), desc="generate", disable=not progress) as bar:

            def read(key: str, completion: str) -> str:
                for row in rows_of[key]:
                    bar.update()
                    if done:
                        done(row, completion)
                return completion

            try:
                completions = asyncio.run(self._ask(requests, Counter(keys), batch_size, read))
            except JudgeFailed as error:  # the client's word for: no prompt can be answered
                raise UserError(f"--model {PREFIX}{self.name}: {error}") from error
        return [completions[key] for key in keys]

    def _request(self, prompt: list[dict], max_new_tokens: int) -> dict:
        return {"model": self.name, "messages": prompt, "temperature": 0, "max_tokens": max_new_tokens}

    async def _ask(self, requests: dict, times: Counter, concurrency: int, read: Callable) -> dict[str, str]:
        from empathy_trl.judge.batch import ask_all
        from empathy_trl.judge.client import Client

        async with Client(self.base_url, KEY, self.timeout, self.retries, self.wait, concurrency) as client:
            return await ask_all(client, requests, times, read, _NoFailures(self))


@dataclass
class _NoFailures:
    """Stops at the first prompt that stays without an answer: figures of the others would flatter or blame the model."""

    model: ApiModel

    def add(self, failure: Unusable, times: int):
        advice = ADVICE.get(failure.reason, "The server's log may say more.")
        raise UserError(
            f"--model {PREFIX}{self.model.name}: {self.model.base_url} left a prompt without an answer ({failure}). {advice}"
        )
