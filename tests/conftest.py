import faulthandler
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import shapes
import torch
from breaking.attempts import WHOLE, keep_attempts
from hypothesis import settings

if "UNCHECKED_SHAPES" not in os.environ:  # `make check` does without, and is a third faster
    shapes.install()  # before anything imports the package

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the hub
settings.register_profile("neuroglot", deadline=None)  # timings never decide a test
settings.load_profile("neuroglot")
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it brings, the more the busier the machine


def pytest_collection_modifyitems(items):
    """In which order files run: those of real models, then slow ones, so that neither worker ends with a long one."""
    for item in items:
        if item.get_closest_marker("long") is not None and not {"LONG", "BREAK"} & os.environ.keys():
            item.add_marker(pytest.mark.skip(reason="long: make long"))
    if "PYTEST_XDIST_WORKER" in os.environ and not WHOLE:
        first = {mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in ("real", "slow")}
        items.sort(key=lambda item: (item.path not in first["real"], item.path not in first["slow"]))


def pytest_runtest_logreport(report):
    """Of workers' tests, too, in the one process that hears of all of them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        keep_attempts(report)


@pytest.fixture
def tried(request):
    """Say what this test tried and how often: `tried("flipped bits", 80)`."""
    said = dict[str, int]()

    def say(kind, number):
        said[kind] = number
        request.node.user_properties[:] = said.items()

    return say


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """A worker that a thread left behind keeps alive says where it waits, and ends."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)


@pytest.fixture(autouse=True)
def _threads(request):
    """All cores for a real model, unless another worker has the others."""
    if request.node.get_closest_marker("real") and "PYTEST_XDIST_WORKER" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _shapes():
    shapes.begin()


@pytest.fixture(autouse=True, scope="session")
def _small_figures():
    """Large ones would be a fifth of a report's time."""
    from neuroglot.figures import style

    style.DPI = 60


@pytest.fixture(scope="session")
def _text_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path, _text_cache, monkeypatch):
    import datasets

    from neuroglot.corpus import columns

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr(columns, "cache_directory", lambda: _text_cache)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny random model on disk."""
    import tiny

    return tiny.model().save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of text files, one a language."""
    import tiny

    path = tmp_path_factory.mktemp("corpus")
    texts = tiny.corpus(60)
    for tag in texts.languages:
        (path / f"{tag}.txt").write_text("\n".join(texts[tag]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model():
    """A tiny random model."""
    import tiny

    return tiny.model()


@pytest.fixture(scope="module")
def recording(model):
    """The tiny model's recording of the tiny corpus."""
    import tiny

    import neuroglot as ng

    return ng.record(model, tiny.corpus(), block=16, progress=False)


@pytest.fixture(scope="module")
def neurons(recording):
    """The tiny model's language neurons."""
    import neuroglot as ng

    return ng.identify.lape(recording, top_fraction=0.4, activity_quantile=0.5)


@pytest.fixture(scope="session")
def gemma():
    """Gemma 3 270M: a real multilingual model."""
    import neuroglot as ng

    return ng.load_model("gemma3-270m")


@pytest.fixture(scope="session")
def example():
    """The program of `examples/train_tiny`, as a module."""
    path = Path(__file__).parents[1] / "examples" / "train_tiny" / "train.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
