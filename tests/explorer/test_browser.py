"""The explorer and the report in a browser: Chromium, driven by Playwright.

The browser is what CHROMIUM names, else the first of the usual names on the path; without one these tests are skipped.
"""

import os
import re
import shutil
import urllib.error
import urllib.request

import exhibit
import pytest

from neuroglot.explorer.app import explore
from neuroglot.figures.plotly import script_of
from neuroglot.report.page import report

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install it, or name one in CHROMIUM"),
]
PATIENCE = 60_000  # ms; machines may be slow, and no test is about time


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With a file whose name would like to be code."""
    made = exhibit.make(tmp_path_factory.mktemp("exhibit"))
    shutil.copy(made.perturbation_path("lape"), made.path / "perturbation" / "a${window.hacked=5}b.json")
    return made


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(run):
    import gradio

    yield explore(run.path, port=None, block=False)
    gradio.close_all(verbose=False)


@pytest.fixture(scope="module")
def written(run):
    """The report."""
    return report(run)


@pytest.fixture
def page(browser):
    """A page; nothing on it may run what came from text, fail, or ask another machine."""
    opened = browser.new_page(viewport={"width": 1200, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.asked, failures = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    yield opened
    assert opened.evaluate("window.hacked") is None
    assert not failures
    outside = [url for url in opened.asked if not re.match(r"(data|blob|file):|http://127\.0\.0\.1[:/]", url)]
    assert not outside
    opened.close()


def drawn(page, panel):
    return page.wait_for_selector(f"#{panel} .plot[data-drawn]")


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def middle(page, panel, across=0.5, down=0.5):
    plot = page.locator(f"#{panel} .plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    return box["x"] + box["width"] * across, box["y"] + box["height"] * down


def test_a_heatmap_is_hovered_and_a_neuron_opens(page, address):
    page.goto(address)
    drawn(page, "atlas-plot")
    page.mouse.move(*middle(page, "atlas-plot"))
    hover = page.locator("#atlas-plot .hoverlayer")
    page.wait_for_function("document.querySelector('#atlas-plot .hoverlayer')?.textContent")
    assert re.search(r"layer 2.*neurons 1\d.*active share, en 0\.\d+", hover.text_content())
    page.mouse.click(*middle(page, "atlas-plot"))
    neuron = page.wait_for_selector("article.neuron")
    assert neuron.get_attribute("data-layer") == "2"
    text = page.locator("article.neuron").text_content()
    assert "What excites it most" in text and "Entropy over languages" in text
    assert page.locator("article.neuron mark").count() > 0
    assert page.locator("article.neuron .text[lang=ur]").first.evaluate("e => getComputedStyle(e).direction") == "rtl"
    title = page.locator("article.neuron h3").text_content()
    page.locator("article.neuron .go").first.click()  # the neuron most like it
    page.wait_for_function("n => document.querySelector('article.neuron h3').textContent !== n", arg=title)


def test_the_atlas_by_keyboard(page, address):
    page.goto(address)
    drawn(page, "atlas-plot")
    page.locator("#atlas-plot .plot").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    neuron = page.wait_for_selector("article.neuron")
    assert (neuron.get_attribute("data-layer"), neuron.get_attribute("data-neuron")) == ("2", "2")


def test_another_language_is_shown(page, address):
    page.goto(address)
    drawn(page, "atlas-plot")
    page.locator("#atlas-language input").click()
    page.get_by_role("option", name="Urdu (ur)").click()
    page.wait_for_function("document.querySelector('#atlas-plot .plot').dataset.drawn > 1")


def test_markup_in_the_corpus_is_text(page, address, run):
    page.goto(address)
    drawn(page, "atlas-plot")
    for number in range(12):  # some example has it
        page.get_by_label("Neuron, from 0").fill(str(number))
        page.locator("#open-neuron").click()
        page.wait_for_selector(f"article.neuron[data-neuron='{number}']")
        assert page.locator("article.neuron script, article.neuron img").count() == 0
        if "<script>" in page.locator("article.neuron").text_content():
            return
    raise AssertionError("no example had the mark-up")


def test_the_lab_answers_with_chinese_silenced(page, address):
    page.goto(address)
    tab(page, "Lab")
    prompt = f"the cats {exhibit.EVIL}"
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#silence").get_by_label("Chinese (zh)").check()
    page.locator("#answer").click()
    page.wait_for_selector("#edited article[data-done=yes]")
    for panel in ("intact", "edited"):
        assert page.locator(f"#{panel} .prompt").text_content() == prompt
        assert page.locator(f"#{panel} script, #{panel} img").count() == 0
        assert re.search(r"[\d.]+ s, \d+ tokens", page.locator(f"#{panel}").text_content())
    assert "deactivate" in page.locator("#lab-state").text_content()


def test_the_lab_says_what_is_wrong(page, address):
    page.goto(address)
    tab(page, "Lab")
    page.locator("#prompt textarea").fill("the cats")
    page.locator("#answer").click()
    page.wait_for_selector("#lab-state .note")
    assert "Tick a language" in page.locator("#lab-state").text_content()
    page.locator("#silence").get_by_label("Chinese (zh)").check()
    page.get_by_label("Layers").fill("7")
    page.locator("#answer").click()
    page.wait_for_function("document.querySelector('#lab-state').textContent.includes('1 to 3')")


def test_matrix_alignment_and_pruning(page, address):
    page.goto(address)
    tab(page, "Matrix")
    drawn(page, "matrix-lape")
    drawn(page, "matrix-lap")
    tab(page, "Alignment")
    drawn(page, "pair")
    page.mouse.click(*middle(page, "overview", across=0.9, down=0.1))  # English and Urdu
    page.wait_for_function("document.querySelector('#pair .xtitle')?.textContent.includes('Urdu')")
    page.mouse.click(*middle(page, "pair", across=0.05, down=0.05))
    page.wait_for_selector("article.pair")
    assert "<script>" in page.locator("#sentences").text_content()
    assert page.locator("#sentences script, #sentences b").count() == 0
    tab(page, "Pruning")
    drawn(page, "pruning-plot")
    page.locator("#picked input").click()
    page.get_by_role("option", name="budget 0.1 by magnitude · zh").click()
    page.wait_for_function("document.querySelector('#pruning-command').textContent.includes('--languages zh')")
    assert "--budget 0.1 --salience magnitude" in page.locator("#pruning-command").text_content()


def test_other_names_and_pages_of_others_are_refused(address):
    def status(**headers):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            return opener.open(urllib.request.Request(f"{address}config", headers=named)).status
        except urllib.error.HTTPError as refused:
            return refused.code

    port = address.rstrip("/").rpartition(":")[2]
    assert status() == status(Origin=address.rstrip("/")) == status(Host=f"localhost:{port}") == 200
    assert status(Host="evil.example") == status(Host=f"evil.example:{port}") == 403
    assert status(Origin="http://evil.example") == status(Origin="null") == 403
    assert status(X_Forwarded_Host="evil.example") == 403


def test_who_leaves_is_not_waited_for(browser, address):
    """A visitor whose answer is being written closes the page; the next one's is written."""
    for leave in (True, False):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        tab(page, "Lab")
        page.locator("#prompt textarea").fill("the cats")
        page.locator("#silence").get_by_label("Chinese (zh)").check()
        page.locator("#answer").click()
        page.wait_for_selector("#intact .small" if leave else "#edited article[data-done=yes]")
        page.close()


def test_no_file_can_be_read_through_the_app(address, run):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    here = run.path.resolve()
    around = (here.parent / "corpus.csv", f"{here}/../../../etc/passwd", "/etc/passwd")
    for path in (here / "run.json", here / "recording" / "recording.safetensors", *around):
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "static/..%2f..%2f..", "assets/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                opener.open(f"{address}{route}{path}").read()
            assert refused.value.code in (403, 404, 405, 422), (route, path)
    script = opener.open(f"{address}gradio_api/file={script_of()}")
    assert script.status == 200


def test_the_report_opens_from_disk_without_one_request(page, written):
    page.goto(written.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    figure = page.locator("figure.interactive").first
    figure.scroll_into_view_if_needed()
    page.wait_for_selector("figure.drawn .js-plotly-plot")
    box = figure.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("document.querySelector('figure.drawn .hoverlayer')?.textContent")
    assert "layer 2" in figure.locator(".hoverlayer").text_content()
    figure.locator("select").select_option(label="Urdu (ur)")
    assert page.asked == [written.as_uri()]


def test_tables_of_the_report_sort(page, written):
    page.goto(written.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    table = page.locator("table").first
    column = [cell.replace(",", "") for cell in table.locator("tr td:nth-child(3)").all_text_contents()]
    table.locator("th:nth-child(3) button").focus()
    page.keyboard.press("Enter")
    found = [int(cell.replace(",", "")) for cell in table.locator("tr td:nth-child(3)").all_text_contents()]
    assert found == sorted(map(int, column), reverse=True)
    table.locator("th:nth-child(1) button").click()
    table.locator("th:nth-child(1) button").click()
    names = table.locator("tr td:nth-child(1)").all_text_contents()
    assert names == sorted(names)


def test_the_report_prints_its_printed_figures(page, written):
    page.goto(written.as_uri())
    page.wait_for_selector("figure.drawn .js-plotly-plot")
    page.emulate_media(media="print")
    assert page.locator("figure.drawn .screen").first.is_hidden()
    printed = page.locator("figure.interactive:has(> img)").first
    assert printed.locator("> img").is_visible()
