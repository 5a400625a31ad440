"""The report as a file: what it shows, and what it must never contain."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compare import Comparison, compare
from tacit.engine.scoring import contributions
from tacit.explain import explain
from tacit.ledger.contribution import CGSV
from tacit.report import arena as arena_page
from tacit.report import page, plots, verdicts, write
from tacit.robustness.scores import MEASURES, Arena
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


def judged(accepted: list[list[float]], malicious: list[int]) -> tacit.Result:
    """A run of four nodes with these verdicts."""
    result = tacit.run(experiment(("a", "b", "c", "<d>"), algorithm=tacit.Gossip(), rounds=1))
    return dataclasses.replace(
        result, verdicts=torch.tensor(accepted), malicious=np.array(malicious)
    )


def test_who_was_turned_away_and_when() -> None:
    nan = math.nan
    result = judged([[1, 0.4, 1, 0], [1, 0.6, nan, 0.25], [1, 0.2, 1, 0.5]], [0, 3])
    found = verdicts.verdicts(result)
    # Malicious first, then by mean acceptance: d (0.25), a (1), b (0.4), c (1, sent twice).
    assert [(row["node"], row["malicious"]) for row in found["nodes"]] == [
        ("<d>", True), ("a", True), ("b", False), ("c", False),
    ]  # fmt: skip
    assert [row["away"] for row in found["nodes"]] == [2, 0, 2, 0]  # below 0.5
    assert [row["first"] for row in found["nodes"]] == [1, None, 1, None]
    assert [row["accepted"] for row in found["nodes"]] == pytest.approx([0.25, 1, 0.4, 1])
    text = page.page(result, explain(result.experiment))
    assert "Who was turned away, and when" in Page(text).text
    assert "&lt;d&gt; (malicious)" in text
    assert "b (malicious)" not in text


def test_every_shade_is_one_outline() -> None:
    # Three shades (1.0, 0.5, 0.0) of 2, 1 and 2 squares; one NaN has none.
    columns = np.array([[1.0, 0.5, 0.0], [1.0, math.nan, 0.0]])
    svg = verdicts.heat(columns, ["a", "b", "c"], 1, "title")
    outlines = re.findall(r'<path d="([^"]+)"[^>]*style="fill: ([^;"]+)', svg)
    squares = [(path.count("M"), fill) for path, fill in outlines if path.count("z") > 0]
    assert [count for count, fill in squares if "none" not in fill][-3:] == [2, 1, 2]


def test_groups_of_rounds_are_means_over_those_in_which_a_node_sent() -> None:
    accepted = np.full((41, 2), math.nan)  # two rounds a column, the last one alone
    accepted[:3, 0] = [1, 0, 0.5]
    found = verdicts._binned(accepted)
    assert found.shape == (21, 2)
    assert found[:2, 0].tolist() == [0.5, 0.5]  # (1 + 0) / 2, and 0.5 of one that sent
    assert np.isnan(found[2:]).all()
    assert np.isnan(found[:, 1]).all()


def test_many_rounds_are_grouped_and_many_nodes_left_out() -> None:
    accepted = torch.ones(90, 70)
    accepted[:, 5] = 0
    names = tuple(f"node {i}" for i in range(70))
    result = dataclasses.replace(
        tacit.run(experiment(names, rounds=1)), verdicts=accepted, malicious=np.array([69])
    )
    found = verdicts.verdicts(result)
    assert [row["node"] for row in found["nodes"][:2]] == ["node 69", "node 5"]
    assert len(found["nodes"]) == 40
    assert "in each 3 rounds" in found["caption"]  # 90 rounds in at most 40 columns


def test_a_run_without_verdicts_has_no_picture_of_them(html: str) -> None:
    assert "turned away" not in html
    plan = experiment()
    result = dataclasses.replace(tacit.run(plan), verdicts=None)
    assert "turned away" not in page.page(result, explain(plan))


def cell(topology: str, defence: str, attack: str, worst: float | None, **more: object) -> dict:
    return (
        {"topology": topology, "defence": defence, "rule": "Rule(f=1)", "attack": attack}
        | dict.fromkeys(MEASURES)
        | {"outcome": "done", "note": "", "seconds": 0.5, "worst_accuracy": worst}
        | more
    )


def test_the_page_of_an_arena(tmp_path: Path) -> None:
    no = {"outcome": "not applicable"}
    found = Arena(
        experiment(),
        [
            cell("star", "<b>mean</b>", "none", 0.9),
            cell("star", "<b>mean</b>", "backdoor & co", 0.5, attack_success=0.75),
            cell("star", "<b>mean</b>", "dissensus", None, note="it needs a graph", **no),
            cell("star", "median", "none", 0.8, note="f is 1: lowered"),
            cell("star", "median", "backdoor & co", 0.0, outcome="diverged in round 2"),
            cell("star", "median", "dissensus", None, note="it needs a graph", **no),
            cell("star", "krum", "none", None, note="too few inputs", **no),
            cell("star", "krum", "backdoor & co", None, note="too few inputs", **no),
            cell("star", "krum", "dissensus", None, note="too few inputs", **no),
        ],
    )
    html = arena_page.write(tmp_path / "arena.html", found).read_text(encoding="utf-8")
    assert html == arena_page.page(found)
    parsed = Page(html)
    assert not {"script", "link", "iframe", "img", "object"} & set(parsed.tags)
    assert "://" not in html
    assert "<b>" not in html
    text = " ".join(parsed.text.split())
    for shown in (
        "<b>mean</b>", "0.500 −0.400 hit 75 %", "lost −0.800", "f is 1: lowered",
        "krum: too few inputs",
        "median under backdoor & co: diverged in round 2.", *found.best()["star"],
        "median under dissensus: not applicable (it needs a graph).",
    ):  # fmt: skip
        assert shown in text
    assert text.count("too few inputs") == 1
    assert re.search(r'<svg [^>]*role="img" aria-label="star: the worst', html)


def test_colours_go_from_guessing_to_perfect_and_can_be_read() -> None:
    assert arena_page._style(0.5, 0.5) == arena_page._style(0.0, 0.5)
    assert arena_page._style(0.5, 0.5) == "background:#d55e00;color:#000"
    assert arena_page._style(0.75, 0.5) == "background:#f7f3ea;color:#000"
    assert arena_page._style(1.0, 0.5) == "background:#0072b2;color:#fff"


def test_who_contributed_what_and_what_the_method_does_not_see() -> None:
    plan = experiment((*HOSTILE, "liar"), attack=tacit.attacks.SignFlip(nodes=("liar",)))
    for method in (None, CGSV()):
        scored = contributions(plan, method)
        shown = Page(page.page(scored, explain(plan)))
        text = " ".join(shown.text.split())
        assert "script" not in shown.tags
        assert "who contributed what?" in text
        assert scored.method.weakness in text
        assert "A low score is no proof of a fault" in text
        assert "liar malicious" in text
        for row in scored.rows():
            assert f"{row['score']:+.3f}".replace("-", "\u2212") in text
            assert row["node"] in shown.text
    assert "inside of it nobody can tell" not in text


def test_groups_that_contributed() -> None:
    plan = experiment(
        tuple(f"site {i}" for i in range(24)), topology=Hierarchical(groups=8), rounds=1,
        protection=[tacit.SecureAggregation(threshold=3)],
    )  # fmt: skip
    text = " ".join(Page(page.page(contributions(plan), explain(plan))).text.split())
    assert "inside of it nobody can tell who earned them" in text
    assert "Of 24 nodes, those with the highest and the lowest scores." in text
