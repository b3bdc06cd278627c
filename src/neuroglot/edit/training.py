"""The training itself, by transformers' `Trainer`: of all weights, an adapter, or some neurons."""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, Field
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import is_matrix, is_transposed
from neuroglot.models.architecture.gradients import attention_with_gradients
from neuroglot.models.model import Model
from neuroglot.models.tokenization import padding_token
from neuroglot.progress import progress_bar
from neuroglot.storage.atomic import read_json
from neuroglot.storage.names import whole_number

__all__ = ["IGNORED", "Part", "TuneSettings", "distillation_loss", "only_part", "trained"]

Part = Bool[Tensor, "layers neurons"] | Literal["routers"]
"""What is trained of a model: some neurons, or the routers of its experts."""

IGNORED = -100  # the label of a token whose loss does not count


class TuneSettings(BaseModel):
    """How a model is tuned; the defaults are the paper's (Tang et al. 2024, §3.1 d)."""

    epochs: int = Field(2, ge=1)
    """Times through the examples."""
    batch: int = Field(128, ge=1)
    """Examples a step: pairs, or blocks of text."""
    learning_rate: float = Field(1e-5, gt=0)
    """The highest."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on: as it is, or down to 0."""
    warm_up: float = Field(0.0, ge=0, lt=1)
    """The share of the steps in which the learning rate rises from 0."""
    at_once: int = Field(8, ge=1)
    """Examples a forward pass; their gradients are added up to a batch."""
    max_tokens: int = Field(512, ge=2)
    """Cut a pair after so many tokens, and where the model reads no further."""
    adapter: int | None = Field(None, ge=1)
    """Train a LoRA adapter of this rank instead of all weights; needs peft."""
    distil: float = Field(0.5, ge=0, le=1)
    """With a teacher: the share of the loss that is the divergence from it; the rest is of the text."""
    steps: int | None = Field(None, ge=1)
    """Stop after so many steps, whatever the epochs."""
    save_every: int | None = Field(None, ge=0)
    """Keep the state after so many steps, 0 never; by default after each epoch."""
    seed: int = 0
    """Of the order of the examples, and of the adapter's start."""


def _saved_states(work: Path) -> list[Path]:
    """What was saved on the way, in its order. What was stopped while it was saved (a full disk) is removed."""
    found: dict[int, Path] = {}
    for path in work.glob("checkpoint-*"):
        step = whole_number(path.name.partition("-")[2])
        if step is None or read_json(path / "trainer_state.json") is None:  # which is written last
            shutil.rmtree(path, ignore_errors=True)
        else:
            found[step] = path
    return [found[step] for step in sorted(found)]


def trained(
    model: Model,
    rows: Sequence[dict[str, list[int]]],
    settings: TuneSettings,
    work: Path,
    language: str,
    only: Part | None,
    teacher: Model | None,
    progress: bool,
) -> tuple[Any, float]:
    """Train a model as `tune` says, its states kept in `work`; the network (or adapter) and the mean loss."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    network = model.network.train() if settings.adapter is None else _adapted(model, settings)
    at_once = min(settings.at_once, settings.batch)
    accumulated = max(1, min(settings.batch, len(rows)) // at_once)
    steps = settings.steps or settings.epochs * -(-len(rows) // (at_once * accumulated))
    on_gpu = model.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulated,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else "cosine",
        warmup_steps=round(settings.warm_up * steps),
        weight_decay=0.0,  # of a weight that must not move, too
        bf16=on_gpu and model.network.dtype == torch.float32,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        seed=settings.seed,
        save_strategy={None: "epoch", 0: "no"}.get(settings.save_every, "steps"),
        save_steps=settings.save_every or 500,
        save_total_limit=1,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # by default the mean loss leaves out what is not a number
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=False,
    )

    class Shown(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        """Moves the bar; of steps, since a step is what takes time. Ends a training before it spoils a weight."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            slopes = [weight.grad for weight in kwargs["model"].parameters() if weight.grad is not None]
            if not bool(torch.nn.utils.get_total_norm(slopes).isfinite()):
                raise _diverged(language, state.global_step + 1)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1, language)

    class Taught(Trainer):  # type: ignore[misc]
        """Whose loss has the teacher in it."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **count: Any) -> Any:
            assert teacher is not None
            labels = inputs["labels"]
            asked = {name: value for name, value in inputs.items() if name != "labels"}
            logits = model(**asked, use_cache=False).logits
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
                wanted = teacher.network(**asked, use_cache=False).logits
            losses = distillation_loss(logits, wanted, labels, settings.distil)
            counted = count.get("num_items_in_batch")
            if counted is None:
                counted = (labels[:, 1:] != IGNORED).sum() * self.args.gradient_accumulation_steps
            loss = losses / counted
            return (loss, {"logits": logits}) if return_outputs else loss

    found = _saved_states(work)
    with (
        progress_bar("tuning", steps, unit="steps", shown=progress) as advance,
        only_part(model, only),
        attention_with_gradients(),
    ):
        trainer = (Trainer if teacher is None else Taught)(
            model=network,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda some: _padded(some, padding_token(model)),
            callbacks=[Shown()],
        )
        trainer.pop_callback(_printer())
        if teacher is not None:
            trainer.model_accepts_loss_kwargs = True  # so the loss is divided here, by all tokens of a step
        if found:
            advance(whole_number(found[-1].name.split("-")[1]) or 0, language)
        result = trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
        # mixed precision is the training's: without this every later pass would be under it, too
        trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    loss = float(result.training_loss)
    network.eval()
    if not math.isfinite(loss) or not all(bool(weight.isfinite().all()) for weight in network.parameters()):
        raise _diverged(language, steps)
    return network, loss


def _diverged(language: str, step: int) -> NeuroglotError:
    return NeuroglotError(
        f"Tuning on {language or 'these examples'} diverged: by step {step} its loss, a gradient or a weight is not a "
        "number; lower the learning rate, or let it rise (--warm-up)."
    )


def distillation_loss(
    logits: Float[Tensor, "rows length vocabulary"],
    teacher: Float[Tensor, "rows length vocabulary"],
    labels: Int[Tensor, "rows length"],
    share: float,
) -> Float[Tensor, ""]:
    """(1 − share) · cross-entropy of the labels + share · KL(teacher ‖ student), summed over the tokens with a label.

    Args:
        logits: of the student; position t predicts token t + 1.
        teacher: the same of the teacher.
        labels: -100 where no loss is wanted.
        share: the teacher's.
    """
    wanted = labels[:, 1:]
    counted = wanted != IGNORED
    own = logits[:, :-1][counted].float().log_softmax(-1)
    its = teacher[:, :-1][counted].float().log_softmax(-1)
    of_text = -own.gather(1, wanted[counted][:, None]).sum()
    apart = (its.exp() * (its - own)).sum()
    return (1 - share) * of_text + share * apart


@contextmanager
def only_part(model: Model, only: Part | None) -> Iterator[None]:
    """Inside the block gradients reach this part's weights alone: the others' are exactly 0, so Adam leaves them.

    Weights of other modules ask for no gradient. Without a part nothing is changed.
    """
    if only is None:
        yield
        return
    before = {weight: weight.requires_grad for weight in model.network.parameters()}
    masks = _router_weights(model) if isinstance(only, str) else _weight_masks(model, only)
    hooks = []
    try:
        for weight in before:
            weight.requires_grad_(weight in masks)
        for weight, mask in masks.items():
            hooks.append(weight.register_hook(lambda grad, mask=mask: grad.masked_fill(~mask, 0.0)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, asked in before.items():
            weight.requires_grad_(asked)


def _router_weights(model: Model) -> dict[nn.Parameter, Tensor]:
    """The matrix of each layer's router, and its bias; all of their entries."""
    owners = [mixture.routing.owner for mixture in model.mixtures.values()]
    weights = [weight for owner in owners if owner is not None for weight in owner.parameters(recurse=False)]
    return {weight: torch.ones_like(weight, dtype=torch.bool) for weight in weights}


def _weight_masks(model: Model, only: Tensor) -> dict[nn.Parameter, Tensor]:
    """Weight → which of its entries belong to the neurons."""
    masks: dict[nn.Parameter, Tensor] = {}
    for ffn, chosen in zip(model.ffns, only, strict=True):
        if not bool(chosen.any()):
            continue
        projections: list[Any] = ffn.projections
        weights = {id(part.weight): part.weight for part in projections}
        masks |= {weight: torch.zeros_like(weight, dtype=torch.bool) for weight in weights.values()}
        neurons = chosen[: ffn.neurons].nonzero().flatten().to(ffn.down_columns.device)
        for part, rows in ffn.neuron_weights():
            mask = masks[part.weight]
            mask = mask.T if is_transposed(part) else mask
            if rows is None:
                mask[:, neurons] = True
            else:
                mask[rows][neurons] = True
    return masks


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
    return get_peft_model(model.network, config)


def _padded(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": filled("input_ids", pad), "labels": filled("labels", IGNORED), "attention_mask": mask}
