"""How fast the explorer is on a run the size of Llama 2 7B: 32 × 11,008 neurons, 9 languages, random numbers.

    python benchmarks/explorer.py [DIRECTORY]

First paint and switching languages, as a person at the browser has them, and the size of the report. Needs Playwright
and a Chromium.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import neuroglot as ng
from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import Recording
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.explorer.app import explore
from neuroglot.report.page import report
from neuroglot.run.directory import Run
from neuroglot.run.settings import ExpertSettings, ModelSettings, RunRecordSettings, TextSettings

LAYERS, NEURONS, EXPERTS, TOKENS = 32, 11_008, 256, 1_000_000
LANGUAGES = ("en", "zh", "fr", "es", "vi", "id", "ja", "ar", "ur")
SWITCHES = 20

TIMING = """new PerformanceObserver((list) => (window.shown ??= []).push(...list.getEntries()))
  .observe({ type: "element", buffered: true });"""
SWITCH = """async ([control, language]) => {
  const node = document.querySelector("#atlas-plot .plot");
  const before = node.dataset.drawn;
  const input = document.querySelector(control + " input");
  input.focus();
  input.click();
  for (let i = 0; i < 100 && !document.querySelector("ul[role=listbox]"); i++) await new Promise(requestAnimationFrame);
  const option = [...document.querySelectorAll("[role=option]")].find((o) => o.textContent.includes(`(${language})`));
  const begun = performance.now();
  option.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
  for (let i = 0; i < 2000 && node.dataset.drawn === before; i++) await new Promise((done) => setTimeout(done, 2));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - begun;
}"""


def random_run(path: Path) -> Run:
    """A run of random numbers."""
    if (path / "run.json").is_file():
        return Run.open(path)
    generator = torch.Generator().manual_seed(0)
    run = Run.create(path, ModelSettings(source="random-7b"), TextSettings(source="random"), RunRecordSettings())
    base = torch.rand(LAYERS, NEURONS, 1, generator=generator)
    share = torch.sigmoid(3 * base - 3 + torch.randn(LAYERS, NEURONS, len(LANGUAGES), generator=generator))
    active = (share * TOKENS).long()
    experts = (torch.rand(LAYERS, EXPERTS, len(LANGUAGES), generator=generator) ** 3 * TOKENS).long()
    tokens = torch.full((len(LANGUAGES),), TOKENS)
    made = Provenance(model="random-7b", fingerprint="0" * 32, tokenizer="0" * 32, block=512)
    sums = {"active": active, "activation": active.double(), "hidden": active.double(), "experts@0.1": experts}
    Recording(LANGUAGES, tokens, sums, made).save(path / "recording" / "recording.safetensors")
    run.manifest.record.experts = run.manifest.experts = ExpertSettings()
    labels = torch.stack([torch.randperm(NEURONS, generator=generator) % EXPERTS for _ in range(LAYERS)])
    ng.experts.Partition(labels, EXPERTS).save(path / "experts" / "partition.safetensors")
    for method in ("lape", "random"):
        neurons = ng.identify.lape(run.recording) if method == "lape" else ng.identify.random(run.neurons("lape"))
        neurons.save(run.neurons_path(method))
        run.manifest.identify[method] = {}
        rows = {tag: {other: 10.0 + (5 if other == tag else 1) for other in LANGUAGES} for tag in LANGUAGES}
        intact, sizes = dict.fromkeys(LANGUAGES, 10.0), {**neurons.sizes(), "random": max(neurons.sizes().values())}
        counted = dict.fromkeys(LANGUAGES, 1000)
        Perturbation(intact, rows, {"0": intact, "1": intact}, sizes, counted, 512).save(run.perturbation_path(method))
        run.manifest.perturb[method] = {}
    run.save()
    return run


def main() -> None:
    """Make the run, start the explorer, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where the run is made; by default a temporary folder")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    run = random_run(folder)
    begun = time.perf_counter()
    address = explore(run.path, port=None, block=False)
    print(f"start-up {time.perf_counter() - begun:.1f} s, after importing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for attempt in ("first visit", "again"):
            page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
            page.add_init_script(TIMING)
            begun = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_selector("#atlas-plot .plot[data-drawn]", timeout=120_000)
            drawn = time.perf_counter() - begun
            shown = page.evaluate("window.shown?.find((entry) => entry.identifier === 'figure')?.renderTime") or 0
            painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
            print(f"{attempt}: first paint {painted / 1000:.2f} s, atlas {shown / 1000:.2f} s, answers {drawn:.2f} s")
        page.wait_for_timeout(1000)
        spent = [
            page.evaluate(SWITCH, ["#atlas-language", LANGUAGES[1 + i % (len(LANGUAGES) - 1)]]) for i in range(SWITCHES)
        ]
        print(
            f"switching language: median {statistics.median(spent):.0f} ms, longest {max(spent):.0f} ms of {SWITCHES}"
        )
        browser.close()
    begun = time.perf_counter()
    page_path = report(run)
    print(f"report: {page_path.stat().st_size / 1e6:.1f} MB, made in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
