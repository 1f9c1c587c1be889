"""Progress in the terminal and in notebooks."""

from typing import Any

from transformers import ProgressCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK


class BarOnly(ProgressCallback):
    """The progress bar without the lines of logged values: for runs whose numbers are shown in the end."""

    @classmethod
    def replace_in(cls, trainer: Any) -> None:
        """Replaces the progress callback of the trainer, unless progress bars are switched off."""
        if not trainer.args.disable_tqdm:
            trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # its class is another one in notebooks
            trainer.add_callback(cls)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        pass
