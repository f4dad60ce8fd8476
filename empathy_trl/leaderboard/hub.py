"""The evaluations of a leaderboard, read from the cards of models on the Hub."""

import httpx
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RemoteEntryNotFoundError
from tqdm.auto import tqdm

from empathy_trl.errors import UserError
from empathy_trl.leaderboard.entries import Entry, Found, make_entry


def read_hub(name: str, split: str | None = None) -> Found:
    """Read the evaluation results in the cards of all models of an author or, where there is none, with a tag.

    Args:
        name: an author (user or organisation), or a tag such as empathy-trl.
        split: train, valid or test; None reads all.

    Raises:
        UserError: the Hub cannot be reached or refuses, no model has this author or tag, or none has results.
    """
    ids, meaning = _models(name)
    found, without = Found(), 0
    for id_ in tqdm(ids, desc="cards", unit="model"):
        known = len(found.problems)
        entries = _entries(id_, found.problems)
        without += not entries and len(found.problems) == known
        found.entries += [entry for entry in entries if split in (None, entry.evaluation["data"]["split"])]
    if not found.entries:
        lacking = f"none with evaluation results{f' of split {split}' if split else ''} as empathy-trl writes them"
        raise UserError("\n".join([f"--hub {name}: {len(ids)} model(s) {meaning}, and {lacking}", *found.problems]))
    if without:
        found.problems.append(f"{without} of {len(ids)} models {meaning}: no evaluation results in the card")
    return found


def _models(name: str) -> tuple[list[str], str]:
    """Return the ids of the models, sorted, and what their list is of."""
    for search, meaning in (({"author": name}, f"of author {name}"), ({"filter": name}, f"with tag {name}")):
        try:
            ids = sorted(model.id for model in HfApi().list_models(**search))
        except (OSError, httpx.HTTPError, HFValidationError) as error:
            raise UserError(_refused(f"--hub {name}", error)) from error
        if ids:
            return ids, meaning
    raise UserError(
        f"--hub {name}: no model on the Hub has this author or this tag; if they are private, run `hf auth login`"
    )


def _refused(name: str, error: Exception) -> str:
    status = _status(error)
    if status in (401, 403):
        return f"{name}: the Hub refuses ({status}); run `hf auth login`"
    if status:
        return f"{name}: the Hub answers {status}; try again later"
    return (
        f"{name}: the Hub cannot be reached ({type(error).__name__}); connect (and unset HF_HUB_OFFLINE), or give folders "
        "with eval_<split>.json instead"
    )


def _status(error: BaseException | None) -> int | None:
    """Return with which status the Hub answered; huggingface_hub wraps that in errors of its own."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None


def _entries(id_: str, problems: list[str]) -> list[Entry]:
    """Return the evaluations in a model's card; a card that cannot be read is a problem, one without results is none."""
    from empathy_trl.publishing.results import from_results

    try:
        results = ModelCard.load(id_).data.eval_results or []
        return [make_entry(evaluation, id_) for evaluation in from_results(results, id_)]
    except RemoteEntryNotFoundError:  # no card
        return []
    except (OSError, httpx.HTTPError, EntryNotFoundError) as error:
        if _status(error) not in (401, 403, 404):
            raise UserError(_refused(id_, error)) from error
        problems.append(_refused(id_, error))  # one that was closed or taken away; the others still count
        return []
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:  # whatever somebody wrote into a card
        problems.append(f"{id_}: its card cannot be read: {error}")
        return []
