"""`neuroglot fix` as a person meets it; a writer stands in, since a tiny model writes nothing that can be judged."""

import pandas as pd
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.fixing import trials

FRENCH = "Le chat dort près de la fenêtre pendant que la pluie tombe."
ENGLISH = "The cat sleeps near the window while the rain falls."
PROMPTS = [f"çà et là {i}" for i in range(8)]


def writer(helps):
    """Writes French where a step of that kind is in force, and elsewhere to every third prompt."""

    def write(model, prompts, recipes=None, **settings):
        return [
            FRENCH if place % 3 == 0 or (recipe is not None and type(recipe.steps[0]) is helps) else ENGLISH
            for place, recipe in enumerate(recipes or [None] * len(prompts))
        ]

    return write


def test_the_command_writes_a_recipe_that_steer_takes(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    recorded = tmp_path / "run"
    neuroglot("record", checkpoint, corpus, "--out", recorded, "--block", 32, "--tokens", 2000, "--residual")
    monkeypatch.setattr(trials, "generate", writer(ng.Deactivate))
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "fr.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    folder, baked = tmp_path / "out", tmp_path / "baked"
    command = (
        "fix",
        checkpoint,
        "--to",
        "fr",
        "--run",
        recorded,
        "--prompts",
        prompts,
        "--out",
        folder,
        "--max-cost",
        1,
    )
    said = neuroglot(*command, "--methods", "ablation,head rows", "--bake", baked)
    assert "chosen: ablation" in said and "100% of what was missing" in said
    recipe, model = ng.Recipe.load(folder / "recipe.safetensors"), ng.load_model(checkpoint)
    recipe.check(model)
    with torch.no_grad(), recipe.applied(model):
        expected = model.network(torch.tensor([[5, 9, 77]])).logits
    torch.testing.assert_close(ng.load_model(baked).network(torch.tensor([[5, 9, 77]])).logits, expected)
    assert {"ablation", "head rows", "intact"} == {*pd.read_csv(folder / "remedies.csv")["method"]}
    assert "as it is" in neuroglot("steer", checkpoint, "çà", "--recipe", folder / "recipe.safetensors", "--tokens", 3)
    monkeypatch.setattr(trials, "generate", writer(None))
    said = neuroglot(
        "fix", checkpoint, "--languages", "en", "--keep", "fr", *command[4:], "--methods", "head rows", "--limit", 7
    )
    assert "no recipe is written" in said and not (folder / "recipe.safetensors").exists()
    for more, sentence in (
        ((), "one of the two"),
        (("--to", "fr", "--languages", "en"), "one of the two"),
        (("--to", "fr", "--keep", "en"), "--keep goes with"),
        (("--to", "fr", "--methods", "magic"), "--methods takes"),
        (("--to", "fr", "--prompts", tmp_path / "nothing"), "no corpus at"),
        (("--to", "de", "--run", recorded, "--prompts", prompts), "de was not recorded"),
        (("--to", "fr", "--run", recorded, "--bake", folder), "exists; choose"),
    ):
        assert sentence in refused(monkeypatch, capsys, "fix", checkpoint, *more)
