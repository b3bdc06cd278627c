"""Tune a model on one language's instructions: what parameter variation compares.

The work is transformers' `Trainer`; with an adapter, peft's LoRA on every matrix of attention and FFNs.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field

from neuroglot.corpus.instructions import Pair
from neuroglot.errors import NeuroglotError, require
from neuroglot.models.architecture.ffn import is_matrix, is_transposed
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar, without_bars
from neuroglot.storage.atomic import atomic_path, read_json, writing
from neuroglot.storage.names import whole_number
from neuroglot.storage.results import refuse_differing, save_json

__all__ = ["TuneSettings", "tune"]

IGNORED = -100  # the label of a token whose loss does not count


class TuneSettings(BaseModel):
    """How a model is tuned; the defaults are the paper's (Tang et al. 2024, §3.1 d)."""

    epochs: int = Field(2, ge=1)
    """Times through the pairs."""
    batch: int = Field(128, ge=1)
    """Pairs a step."""
    learning_rate: float = Field(1e-5, gt=0)
    """Constant."""
    at_once: int = Field(8, ge=1)
    """Pairs a forward pass; their gradients are added up to a batch."""
    max_tokens: int = Field(512, ge=2)
    """Cut a pair after so many tokens."""
    adapter: int | None = Field(None, ge=1)
    """Train a LoRA adapter of this rank instead of all weights; needs peft."""
    steps: int | None = Field(None, ge=1)
    """Stop after so many steps, whatever the epochs."""
    seed: int = 0
    """Of the order of the pairs, and of the adapter's start."""


def tune(
    model: Model,
    pairs: Sequence[Pair],
    path: str | Path,
    settings: TuneSettings | None = None,
    *,
    language: str = "",
    progress: bool = True,
) -> Path:
    """Tune a model on instructions and write it as a checkpoint, or an adapter. The model itself is changed.

    A text is the instruction, a blank line, and the answer, with nothing around them: a template in English would put
    English into the tuning of every language. Only the answer's tokens, and the end of the text, have a loss.

    Args:
        model: whole and in memory; open it again for another language.
        pairs: what to learn.
        path: a new directory. If it holds what the same settings and pairs made, nothing is done; if work on it was
            interrupted, it goes on from the last whole epoch.
        settings: how.
        language: said in the progress bar and kept beside the weights.
        progress: show a bar.

    Raises:
        NeuroglotError: there are no pairs, none's answer is within `max_tokens`, peft is missing, the directory holds
            something else, or the loss is not a number.
    """
    settings = settings or TuneSettings()
    path = Path(path)
    if not pairs:
        raise NeuroglotError("There are no instructions to tune on; give some.")
    if settings.adapter is not None:
        require("peft", "tune", needed_by="An adapter")
    about = {
        "base": model.name,
        "fingerprint": model.fingerprint,
        "language": language,
        "pairs": len(pairs),
        "settings": settings.model_dump(),
    }
    work = path.with_name(f".{path.name}.tuning")
    if path.exists():
        before = read_json(path / "tuning.json")
        remedy = "choose another place, or delete it"
        if before is None:
            raise NeuroglotError(f"{path} exists and is no tuned model; {remedy}.")
        refuse_differing(f"{path} was tuned", {name: before[name] for name in about if name in before}, about, remedy)
        shutil.rmtree(work, ignore_errors=True)  # stopped just before this, the last time
        return path
    started = time.perf_counter()
    _same_work(work, about)
    with writing(work):  # a full disk ends the saving of an epoch
        tuned, loss = _train(model, pairs, settings, work, language, progress)
    about["loss"], about["seconds"] = loss, time.perf_counter() - started
    with atomic_path(path) as draft, without_bars():
        tuned.save_pretrained(draft)
        if settings.adapter is None:
            model.tokenizer.save_pretrained(draft)
        save_json(draft / "tuning.json", about)
    shutil.rmtree(work, ignore_errors=True)
    return path


def _same_work(work: Path, about: dict[str, Any]) -> None:
    """Begin anew unless what is there was begun with the same settings."""
    said = work / "about.json"
    if read_json(said) != about:
        shutil.rmtree(work, ignore_errors=True)
        save_json(said, about)


def _epochs(work: Path) -> dict[int, Path]:
    """What was saved of each epoch, by its step. One whose saving was stopped (a full disk, a kill) is removed."""
    found: dict[int, Path] = {}
    for path in work.glob("checkpoint-*"):
        step = whole_number(path.name.partition("-")[2])
        if step is None or read_json(path / "trainer_state.json") is None:  # which is written last
            shutil.rmtree(path, ignore_errors=True)
        else:
            found[step] = path
    return found


def _train(
    model: Model, pairs: Sequence[Pair], settings: TuneSettings, work: Path, language: str, progress: bool
) -> tuple[Any, float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    network = model.network.train()
    if settings.adapter is not None:
        network = _adapted(model, settings)
    rows = [_row(model, pair, settings.max_tokens) for pair in pairs]
    rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
    if not rows:
        raise NeuroglotError(
            f"No answer{f' in {language}' if language else ''} begins within {settings.max_tokens} tokens, so there is "
            "nothing to learn; raise max_tokens."
        )
    at_once = min(settings.at_once, settings.batch)
    accumulated = max(1, min(settings.batch, len(rows)) // at_once)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulated,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        seed=settings.seed,
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=False,
    )

    class Shown(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        """Moves the bar; of steps, since a step is what takes time."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1, language)

    checkpoints = _epochs(work)
    steps = settings.steps or settings.epochs * -(-len(rows) // (at_once * accumulated))
    with progress_bar("tuning", steps, unit="steps", shown=progress) as advance:
        trainer = Trainer(
            model=network,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda some: _padded(some, model.tokenizer.pad_token_id or 0),
            callbacks=[Shown()],
        )
        trainer.pop_callback(_printer())
        if checkpoints:
            advance(max(checkpoints), language)
        result = trainer.train(resume_from_checkpoint=str(checkpoints[max(checkpoints)]) if checkpoints else None)
    loss = float(result.training_loss)
    network.eval()
    if loss != loss:
        raise NeuroglotError(
            f"Tuning on {language or 'these pairs'} diverged (its loss is not a number); lower the rate."
        )
    return network, loss


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _adapted(model: Model, settings: TuneSettings) -> Any:
    """The network with a LoRA adapter on every matrix of its layers."""
    from peft import LoraConfig, get_peft_model

    names = sorted(
        {name.split(".")[-1] for ffn in model.ffns for name, module in ffn.layer.named_modules() if is_matrix(module)}
    )
    assert settings.adapter is not None
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.adapter,
        lora_alpha=2 * settings.adapter,
        target_modules=names,
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(is_transposed(part) for part in model.ffns[0].projections),
    )
    config.base_model_name_or_path = model.name
    return get_peft_model(model.network, config)


def _row(model: Model, pair: Pair, limit: int) -> dict[str, list[int]]:
    """A pair's tokens, with labels for the answer and the end only."""
    asked, answer = model.encode([f"{pair.instruction}\n\n", pair.answer])
    begin = list(model.begin)
    end = [] if model.tokenizer.eos_token_id is None else [model.tokenizer.eos_token_id]
    tokens = [*begin, *asked, *answer, *end][:limit]
    silent = len(begin) + len(asked)
    return {"input_ids": tokens, "labels": ([IGNORED] * silent + tokens[silent:])[: len(tokens)]}


def _padded(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": filled("input_ids", pad), "labels": filled("labels", IGNORED), "attention_mask": mask}
