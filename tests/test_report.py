"""The report as a file: what it shows, and what it must never contain."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import tacit
from tacit.compare import Comparison, compare
from tacit.explain import explain
from tacit.report import page, plots, write
from tacit.topology import DirectedRing, Hierarchical, Ring, Star

HOSTILE = ("<script>alert(1)</script>", "\"quoted\" & 'named'", "$x^2$ München")
EMPTY = {"meta", "br", "img", "link", "input", "hr", "path", "use"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that are closed in the wrong order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "data", "action")
        self.links += [value or "" for name, value in attributes if name in names]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def experiment(names: tuple[str, ...] = HOSTILE, **changes: object) -> tacit.Experiment:
    draw = np.random.default_rng(2)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = draw.normal(size=(count, 2))
        return x, (x[:, 0] > 0).astype(np.int64)

    data = tacit.data.from_arrays(
        [rows(10) for _ in names], test=[rows(6) for _ in names], names=names
    )
    fields = {
        "data": data,
        "model": lambda: nn.Linear(2, 2),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.1, batch_size=5),
        "rounds": 3,
    }
    return tacit.Experiment(**(fields | changes))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(experiment())


@pytest.fixture(scope="module")
def html(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write(path, comparison, explain(experiment())) == path
    assert list(path.parent.iterdir()) == [path]
    return path.read_text(encoding="utf-8")


def test_parses_and_asks_for_nothing(html: str) -> None:
    found = Page(html)
    assert not {"script", "link", "iframe", "img", "object"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert "://" not in html


def test_every_reference_inside_a_figure_exists(html: str) -> None:
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    names = set(re.findall(r' id="([^"]+)"', html))
    assert wanted
    assert {one or other for one, other in wanted} <= names


def test_names_are_shown_and_never_obeyed(html: str) -> None:
    assert "<script" not in html
    text = Page(html).text
    for name in HOSTILE:
        assert name in text


def test_shows_everything(html: str, comparison: Comparison) -> None:
    text = Page(html).text
    for sentence in (*comparison.verdict(), *explain(experiment()).sentences):
        assert sentence in text
    assert experiment().digest() in text
    assert "seed" in text
    assert "torch " in text
    # Main metric, loss, bars, star, ring: each with a name for those who cannot see it.
    assert len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]+"', html)) == 5


def test_same_results_give_the_same_bytes(html: str, comparison: Comparison) -> None:
    assert page.page(comparison, explain(experiment())) == html


def test_undefined_values_are_a_dash(comparison: Comparison) -> None:
    results = {}
    for way, result in comparison.results.items():
        nodes = [dict(row) for row in result.nodes]
        nodes[0] |= {"accuracy": math.nan, "auc": math.nan, "test_rows": 0}
        results[way] = dataclasses.replace(result, nodes=nodes)
    text = Page(page.page(Comparison(results), explain(experiment()))).text
    assert "–" in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    "changes",
    [
        {"topology": Star(cohort=2)},
        {"topology": Hierarchical(groups=2)},
        {"algorithm": tacit.Gossip()},
        {"algorithm": tacit.Alone()},
        {"algorithm": tacit.Pooled()},
    ],
)
def test_one_run_has_a_report(changes: dict[str, object], tmp_path: Path) -> None:
    plan = experiment(**changes)
    path = write(tmp_path / "run.html", tacit.run(plan), explain(plan))
    found = Page(path.read_text(encoding="utf-8"))
    assert "report of a run" in found.text
    assert "script" not in found.tags


def test_regression_has_a_report() -> None:
    draw = np.random.default_rng(3)
    x = draw.normal(size=(20, 2))
    parts = [(x[:10], x[:10, :1]), (x[10:], x[10:, :1])]
    data = tacit.data.from_arrays(parts, test=(x, x[:, :1]))
    plan = experiment(data=data, model=lambda: nn.Linear(2, 1), loss=nn.functional.mse_loss)
    text = Page(page.page(compare(plan), explain(plan))).text
    assert "R2" in text
    assert "mean absolute error" in text
    assert "accuracy" not in text


def test_many_nodes_are_summed_up() -> None:
    names = tuple(f"node {i}" for i in range(70))
    plan = experiment(names, rounds=1)
    html = page.page(compare(plan), explain(plan))
    assert "70 nodes (12 drawn)" in html
    assert "neighbours that a node sends to" in html
    assert "Of 70 nodes, those with the highest and the lowest gain." in html
    assert len(re.findall(r'<th scope="row">node ', html)) == 20


@pytest.mark.parametrize("topology", [Ring(), DirectedRing(), Star(), Hierarchical(groups=3)])
def test_every_node_of_a_small_federation_is_drawn(topology: object) -> None:
    names = [f"site-{i}" for i in range(8)] + ["$x^2$"]
    svg = plots.drawing(topology, names, 0)
    for name in names:
        assert f">{name}</text>" in svg


def test_a_failed_write_keeps_the_old_file(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(tacit.InputError, match="No space left on device"):
        write(path, comparison, explain(experiment()))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
