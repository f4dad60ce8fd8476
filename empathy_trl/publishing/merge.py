"""An adapter put into its base for good, in a folder of its own, so that whoever loads it needs no peft."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from empathy_trl.errors import UserError
from empathy_trl.hub import ADAPTER_FILE, adapter_base
from empathy_trl.publishing.contents import TOKENIZER, Contents, found, model_files


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a whole model."""
    return (folder / ADAPTER_FILE).is_file()


def check_base(folder: Path) -> None:
    """Raise UserError if an adapter's base is a folder on this machine: nobody else could load what is published."""
    base, _ = adapter_base(folder / ADAPTER_FILE, str(folder))
    if Path(base).is_dir() or Path(base).is_absolute():
        raise UserError(
            f"the base of this adapter is the folder {base}, which nobody else has; publish the two as one model with "
            "--merge_adapter (hub.merge_adapter: true in a recipe)"
        )


@contextmanager
def merged_files(folder: Path) -> Iterator[Contents]:
    """Give the files of the model that an adapter and its base are together; the adapter's folder stays as it is.

    The base is loaded as it was published, not quantised (an adapter trained on a 4-bit base is merged into the full one, as
    QLoRA's authors do), on the CPU, with room for both models in memory and for one of them in the temporary folder.

    Raises:
        UserError: the base cannot be loaded, or there is no room to write the merged model.
    """
    from empathy_trl.models import load_model
    from empathy_trl.recipe import Model

    with tempfile.TemporaryDirectory(prefix="merged-") as name:
        model, tokenizer = load_model(Model(name_or_path=str(folder)), seed=0, is_trainable=False)
        try:
            model.merge_and_unload().save_pretrained(name)
            tokenizer.save_pretrained(name)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the merged model cannot be written to {tempfile.gettempdir()} ({error}); make room there, or let TMPDIR name "
                "another folder"
            ) from error
        yield model_files(Path(name)) | {path.name: path for path in found(folder, TOKENIZER)}
