"""The pictures of the explorer in the documentation.

    python benchmarks/screenshots.py RUN docs/images [atlas lab matrix alignment pruning]

RUN has something in every tab. Needs Playwright, a Chromium, and fonts for the run's languages.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from neuroglot.explorer.app import explore

WIDTH, PATIENCE = 1200, 300_000
PROMPT = "今天天气很好，我们一家人去公园"
NEURON = (18, 1764)  # layer from 1, neuron from 0


def keep(page: Page, path: Path) -> None:
    """A picture of the whole page in 256 colours."""
    page.wait_for_timeout(1500)
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    print(path, path.stat().st_size)


def atlas(page: Page) -> None:
    page.wait_for_selector("#atlas-plot .plot[data-drawn]")
    page.locator("#atlas-view input").click()
    page.get_by_role("option", name="difference of two").click()
    page.wait_for_function("document.querySelector('#atlas-plot .plot').dataset.drawn > 1")
    page.get_by_label("Layer, from 1").fill(str(NEURON[0]))
    page.get_by_label("Neuron, from 0").fill(str(NEURON[1]))
    page.locator("#open-neuron").click()
    page.wait_for_selector(f"article.neuron[data-neuron='{NEURON[1]}']")


def lab(page: Page) -> None:
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#silence").get_by_label("Chinese (zh)").check()
    page.locator("#raise").get_by_label("French (fr)").check()
    page.locator("#answer").click()
    page.wait_for_selector("#edited article[data-done=yes]")


def matrix(page: Page) -> None:
    page.wait_for_selector("[id^=matrix] .plot[data-drawn]")


def alignment(page: Page) -> None:
    page.wait_for_selector("#pair .plot[data-drawn]")
    for label, language in (("Rows", "Urdu (ur)"), ("Columns", "Bangla (bn)")):
        page.get_by_label(label, exact=True).click()
        page.get_by_role("option", name=language).first.click()
        page.wait_for_timeout(2000)
    page.get_by_role("button", name="Read them").click()
    page.wait_for_selector("article.pair")


def pruning(page: Page) -> None:
    page.wait_for_selector("#pruning-plot .plot[data-drawn]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="the run to show")
    parser.add_argument("out", help="the folder for the pictures")
    parser.add_argument("wanted", nargs="*", help="tabs; all by default")
    asked = parser.parse_args()
    run, out, wanted = asked.run, asked.out, asked.wanted
    address = explore(run, port=None, block=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for tab in (atlas, lab, matrix, alignment, pruning):
            if wanted and tab.__name__ not in wanted:
                continue
            page = browser.new_page(viewport={"width": WIDTH, "height": 700})
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.get_by_role("tab", name=tab.__name__.capitalize()).click()
            tab(page)
            keep(page, Path(out) / f"explorer-{tab.__name__}.png")
        browser.close()


if __name__ == "__main__":
    main()
