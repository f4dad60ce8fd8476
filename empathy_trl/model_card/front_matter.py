"""The front matter of a model card: what the Hub and programs read."""

from huggingface_hub import ModelCardData

from empathy_trl.model_card.corpora import Corpus
from empathy_trl.model_card.machine import emissions
from empathy_trl.model_card.results import to_results
from empathy_trl.model_card.stage_files import StageFiles

TAG = "empathy-trl"  # by which the Hub finds our models


def front_matter(files: StageFiles, repo_id: str, merged: bool, corpora: list[Corpus], licence: dict) -> str:
    """Return the front matter as YAML, without its fences.

    Args:
        licence: keys of the front matter, from `licences.licence`.
    """
    adapter = files.is_adapter and not merged
    results = [result for evaluation in files.evaluations.values() for result in to_results(evaluation)]
    relation = "adapter" if adapter else "finetune"
    data = ModelCardData(
        language="en",
        **licence,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification" if files.scores_texts else "text-generation",
        base_model=files.base,
        base_model_relation=relation if files.base else None,
        tags=[TAG, "trl", str(files.task)],
        datasets=list(dict.fromkeys(each.hub for each in corpora if each.hub)) or None,
        co2_eq_emissions=_emissions(files.record),
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
    )
    return data.to_yaml()


def _emissions(record: dict) -> dict | None:
    """Return what the Hub shows of the carbon; None where it was not measured."""
    grams = emissions(record)
    if grams is None:
        return None
    return {
        "emissions": grams,
        "source": "energy counters of the GPUs, times the carbon intensity that the author states",
        "training_type": "fine-tuning",
        "hardware_used": ", ".join(map(str, (record.get("hardware") or {}).get("gpus") or [])),
    }
