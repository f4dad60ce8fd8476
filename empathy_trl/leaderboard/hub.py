"""The evaluations of a leaderboard, read from the cards of models on the Hub."""

from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from tqdm.auto import tqdm
from yaml import YAMLError

from empathy_trl.errors import UserError
from empathy_trl.leaderboard.entries import Entry, Found, make_entry
from empathy_trl.model_card.results import from_results
from empathy_trl.publishing.patience import failures, hub_session, patiently, reason
from empathy_trl.secrets import mask


def read_hub(name: str, split: str | None = None) -> Found:
    """Read the evaluation results in the cards of all models of an author or, where there is none, with a tag.

    Args:
        name: an author (user or organisation), or a tag such as empathy-trl.
        split: train, valid or test; None reads all.

    Raises:
        UserError: the Hub cannot be reached or refuses, no model has this author or tag, or none has results.
    """
    try:
        return _read_hub(name, split)
    except OfflineModeIsEnabled as error:  # said before anything is asked
        raise UserError(_refused(f"--hub {name}", error)) from error


def _read_hub(name: str, split: str | None) -> Found:
    found, without = Found(), 0
    with hub_session():
        ids, meaning = _models(name)
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
            ids = patiently(lambda search=search: sorted(model.id for model in HfApi().list_models(**search)), "models")
        except failures() as error:
            raise UserError(_refused(f"--hub {name}", error)) from error
        if ids:
            return ids, meaning
    raise UserError(
        f"--hub {name}: no model on the Hub has this author or tag; if they are private, run `hf auth login`"
    )


def _refused(name: str, error: Exception) -> str:
    return f"{name}: {reason(error)}. Folders with eval_<split>.json can be given instead"


def _entries(id_: str, problems: list[str]) -> list[Entry]:
    """Return the evaluations in a model's card; a card that cannot be read is a problem, one without results is none."""
    try:
        path = hf_hub_download(id_, "README.md")
    except RemoteEntryNotFoundError:  # no card
        return []
    except (EntryNotFoundError, *failures()) as error:
        error = _behind(error)
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status not in (401, 403, 404):
            raise UserError(_refused(id_, error)) from error
        problems.append(f"{id_}: its card is not for you to see (HTTP {status})")  # the others still count
        return []
    try:
        results = ModelCard.load(path).data.eval_results or []
        return [make_entry(evaluation, id_) for evaluation in from_results(results, id_)]
    except (ValueError, KeyError, TypeError, AttributeError, YAMLError) as error:  # whatever somebody wrote into a card
        problems.append(mask(f"{id_}: its card cannot be read: {error}"))
        return []


def _behind(error: Exception) -> Exception:
    """Return what kept a download from being made, which huggingface_hub reports as a file that is not in the cache."""
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
