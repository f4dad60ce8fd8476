"""The questions of a whole batch, asked at the same time, and the point at which too many of them have failed."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from empathy_trl.judge.client import Client
from empathy_trl.judge.errors import JudgeFailed, Unusable

ADVICE = {
    "no connection": "Is the server running at base_url?",
    "broken connection": "Is the server still running? Its log may say more.",
    "timeout": "Raise timeout, or lower concurrency.",
    "HTTP 429": "Lower concurrency, or raise retries.",
    "HTTP 400": "Does the server take a schema (structured), all settings in `sampling`, and so long a conversation?",
    "not JSON": "Set structured: true, if the server can; raise sampling.max_tokens, if the answer is cut off.",
    "wrong schema": "Set structured: true, if the server can, or take a model that follows the format.",
    "out of range": "Take a scale of whole numbers, which a schema can list, or a model that follows the format.",
}


@dataclass
class Failures:
    """Counts the replies of a batch that stay without a score.

    Args:
        replies: in the whole batch.
        limit: the largest share of them that may fail.
        judge: `model at base_url`, for messages.
    """

    replies: int
    limit: float
    judge: str
    found: list[Unusable] = field(default_factory=list)

    def add(self, failure: Unusable, times: int):
        """Count a failure for `times` equal replies; JudgeFailed if the share is now above the limit."""
        self.found += [failure] * times
        if len(self.found) / self.replies > self.limit:
            most = Counter(failure.reason for failure in self.found).most_common(1)[0][0]
            advice = ADVICE.get(most, "The server's log may say more.")
            raise JudgeFailed(f"{self.summary()}. That is more than max_failure_share: {self.limit:g}. {advice}")

    def summary(self) -> str:
        """Say how many failed, why, and what happened first."""
        reasons = Counter(failure.reason for failure in self.found).most_common()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        first = self.found[0]
        return (
            f"{len(self.found)} of {self.replies} replies got no score from {self.judge} ({counts}). "
            f"The first: {first.reason}: {first.detail}"
        )


async def ask_all(
    client: Client, requests: Mapping[str, dict], times: Mapping[str, int], read: Callable, failures: Failures
) -> dict:
    """Return key -> what `read` makes of the answer, None for a question that stays without.

    Args:
        client: whom to ask; it bounds the concurrency.
        requests: key -> request.
        times: key -> for how many replies the question stands.
        read: called with key and answer; raises Unusable for an answer that is not as asked.
        failures: counts them.

    Raises:
        JudgeFailed: too many have failed, which is noticed without waiting for the others, or none can be answered.
    """

    async def one(key: str):
        try:
            return key, await client.ask(requests[key], lambda answer: read(key, answer)), None
        except Unusable as failure:
            return key, None, failure

    results = {}
    tasks = [asyncio.create_task(one(key)) for key in requests]
    try:
        for task in asyncio.as_completed(tasks):
            key, results[key], failure = await task
            if failure:
                failures.add(failure, times[key])
    finally:  # none goes on in the background
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results
