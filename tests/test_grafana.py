# SPDX-License-Identifier: Apache-2.0
"""The dashboard of docs/ asks for series that there are."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from vllm.v1.metrics import loggers

from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.runner import metrics
from ascend_gdn.runner.metrics import GDNMetrics

DASHBOARD = json.loads(Path(__file__).parents[1].joinpath("docs", "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def asked_for(prefix: str) -> set[str]:
    return set(re.findall(rf"{prefix}:\w+", " ".join(EXPRESSIONS)))


def test_our_series_are_published_with_the_labels_that_it_takes(monkeypatch, tmp_path, mocker):
    monkeypatch.setenv(metrics.VARIABLE, str(tmp_path))
    registry = mocker.spy(metrics, "CollectorRegistry")
    GDNMetrics(GDNStats(), worker=0, engine=0).end()
    published: CollectorRegistry = registry.spy_return
    text = generate_latest(published).decode()
    names = asked_for("ascend_gdn")
    assert len(names) > 5
    for name in names:
        assert re.search(rf'^{name}\{{engine="0"[^}}]*worker="0"', text, re.MULTILINE), name


def test_vllms_series_are_its_own():
    source = Path(loggers.__file__).read_text()
    names = asked_for("vllm")
    assert len(names) == 4
    for name in names:
        assert f'name="{name.removesuffix("_bucket")}"' in source, name


def test_panels_do_not_overlap():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            max(one["x"], other["x"]) >= min(one["x"] + one["w"], other["x"] + other["w"])
            or max(one["y"], other["y"]) >= min(one["y"] + one["h"], other["y"] + other["h"])
        )  # fmt: skip
        assert apart


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_whose_data_is_chosen_in_the_dashboard(panel):
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all('engine=~"$engine"' in target["expr"] for target in panel["targets"])
