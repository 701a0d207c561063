"""Alert rules and dashboards: they fire and parse, and every metric and label in them is one that there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.promql import Query, parsed
from tests.support.promtool import needs_promtool, promtool

from .manifests import ROOT, yaml

RULES = ROOT / "deploy" / "prometheus" / "flowserver.rules.yml"
TESTS = RULES.with_name("flowserver.rules.test.yml")
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
OF_TARGETS = frozenset({"job", "instance"})
"""Labels that Prometheus adds to all that it scrapes."""
OF_PROMETHEUS = {"up": OF_TARGETS}
SEVERITIES = {"warning", "critical"}

Panel = dict[str, Any]


def documented(page: str) -> dict[str, frozenset[str]]:
    """The labels of each metric by its name, those of a histogram's parts by theirs, as docs/metrics.md has them."""
    found: dict[str, frozenset[str]] = {}
    for name, kind, labels, _, *merge in re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([^|]*)\| ((?:[^|\\]|\\.)*)\|(?: (\w+) \|)?$", page, re.MULTILINE
    ):
        known = OF_TARGETS | set(re.findall(r"`(\w+)`", labels))
        if merge == ["each"]:
            known |= {"worker"}
        if kind == "histogram":
            found |= {f"{name}_bucket": known | {"le"}, f"{name}_sum": known, f"{name}_count": known}
        else:
            found[name] = known
    return found


KNOWN = OF_PROMETHEUS | documented((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))


def wrong_names(query: str, known: Mapping[str, frozenset[str]]) -> list[str]:
    """What in `query` there is not."""
    try:
        found: Query = parsed(query)
    except ValueError as error:
        return [str(error)]
    wrong = [f"{name}: no such metric" for name in sorted(found.metrics - known.keys())]
    wrong += [f"{name}: no label {label}" for name, label in sorted(found.matched) if label not in known.get(name, ())]
    of_any = frozenset().union(*(known.get(name, frozenset()) for name in found.metrics))
    return wrong + [f"no metric of it has {label}" for label in sorted(found.grouped - of_any)]


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def dashboard(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """Title of the panel, or name of the variable, and query."""
    for panel in dashboard(path)["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard(path)["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert inner is not None, variable["definition"]
            assert variable["query"]["query"] == variable["definition"]
            yield variable["name"], f"count by ({inner[2]}) ({inner[1]})"


# --- the rules ---


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_is_about_metrics_that_there_are(alert: dict[str, Any]) -> None:
    assert wrong_names(alert["expr"], KNOWN) == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in SEVERITIES
    notes = alert["annotations"]
    assert notes["summary"].endswith(".")
    assert len(notes["runbook"]) > 100
    settings = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    told = " ".join(notes.values())
    assert [name for name in re.findall(r"FLOW_[A-Z_]+", told) if f"| `{name}` |" not in settings] == []
    metrics = set(re.findall(r"\bflow_\w+", told))
    assert {name for name in metrics if not {name, f"{name}_count"} & KNOWN.keys()} == set()
    assert set(re.findall(r"\bFlowserver\w+", told)) <= {each["alert"] for each in alerts()}
    shown = set(re.findall(r"\$labels\.(\w+)", told))
    query = parsed(alert["expr"])
    kept = query.grouped or frozenset().union(*(KNOWN[name] for name in query.metrics))
    assert shown <= kept


def test_every_alert_has_figures_that_fire_it_and_figures_that_do_not() -> None:
    found: dict[str, set[str]] = {each["alert"]: set() for each in alerts()}
    for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]:
        for each in test["promql_expr_test"]:
            [name] = re.findall(r'alertname="(\w+)"', each["expr"])
            if each["exp_samples"]:
                found[name].add("fires")
            if len(each["exp_samples"]) < len(test["input_series"]):
                found[name].add("is quiet")  # at this time, or for one of the others
    assert {name: what for name, what in found.items() if what != {"fires", "is quiet"}} == {}


@needs_promtool
def test_promtool_takes_the_rules_and_their_tests() -> None:
    for arguments in (("check", "rules", RULES.name), ("test", "rules", TESTS.name)):
        status, said = promtool(*arguments, folder=RULES.parent)
        assert (status, "SUCCESS" in said) == (0, True), said


# --- the dashboards ---


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_three_dashboards() -> None:
    assert [path.stem for path in DASHBOARDS] == ["flowserver-overview", "flowserver-providers", "flowserver-tenants"]
    assert [dashboard(path)["uid"] for path in DASHBOARDS] == [path.stem for path in DASHBOARDS]


def test_every_panel_is_about_metrics_that_there_are(board: Path) -> None:
    wrong = {title: found for title, query in queries(board) if (found := wrong_names(query, KNOWN))}
    assert wrong == {}


def test_every_panel_says_what_it_shows_and_in_which_unit(board: Path) -> None:
    panels = dashboard(board)["panels"]
    assert [panel["title"] for panel in panels if not panel["description"].endswith(".")] == []
    plain = [panel for panel in panels if panel["type"] != "state-timeline"]
    assert [panel["title"] for panel in plain if "unit" not in panel["fieldConfig"]["defaults"]] == []
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)


def test_every_query_goes_to_the_chosen_source_and_relays(board: Path) -> None:
    panels = dashboard(board)["panels"]
    sources = [each["datasource"]["uid"] for panel in panels for each in (panel, *panel["targets"])]
    assert set(sources) == {"${datasource}"}
    variables = {variable["name"] for variable in dashboard(board)["templating"]["list"]}
    for panel in panels:
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert {"job", "instance"} <= used, panel["title"]
            assert used - {"__rate_interval", "__range"} <= variables, panel["title"]


def test_legends_show_labels_that_the_query_keeps(board: Path) -> None:
    for panel in dashboard(board)["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= parsed(target["expr"]).grouped, panel["title"]


def test_panels_fill_their_rows_and_do_not_overlap(board: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(board)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    height = 1 + max(y for _, y in taken)
    assert len(taken) == 24 * height


@needs_promtool
def test_promtool_can_read_every_query(board: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m").replace("$__range", "1h")}
        for number, (_, query) in enumerate(queries(board))
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    status, said = promtool("check", "rules", "panels.yml", folder=tmp_path)
    assert status == 0, said


# --- the documentation ---


def test_the_queries_that_the_documentation_recommends_are_about_metrics_that_there_are() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    table = page.partition("| question | query |")[2].partition("\n\n")[0]
    found = re.findall(r"`([^`]+)`", table)
    assert len(found) > 5
    assert {query: wrong for query in found if (wrong := wrong_names(query, KNOWN))} == {}


# --- the checks themselves ---


def test_a_query_is_read_as_it_is_meant() -> None:
    query = 'sum by (a, le) (rate(x_bucket{job=~"$job", b!="1"}[5m])) / on(c) group_left y > 0.5 and z unless w == 2'
    found = parsed(query)
    assert found.metrics == {"x_bucket", "y", "z", "w"}
    assert found.matched == {("x_bucket", "job"), ("x_bucket", "b")}
    assert found.grouped == {"a", "le", "c"}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("flow_streams_open", []),
        ("flow_streams_opn > 0", ["flow_streams_opn: no such metric"]),
        ('flow_pauses_total{cause="x"}', ["flow_pauses_total: no label cause"]),
        ("sum by (tenant) (flow_pauses_total)", ["no metric of it has tenant"]),
        ("flow_first_byte_seconds", ["flow_first_byte_seconds: no such metric"]),
        ("sum by (le) (rate(flow_first_byte_seconds_bucket[5m]))", []),
        ('{job="x"}', ['a selector without a name: {job="x"}']),
    ],
)
def test_wrong_names_are_found(query: str, wrong: list[str]) -> None:
    assert wrong_names(query, KNOWN) == wrong
