"""Metrics: OpenMetrics that the reference parser reads, families that the dashboard and the alerts name, and logs."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_kit import Served, caught_up, deepened, served, until

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ldc import metrics
from ldc.cli.log import logged_to

DEPLOY = Path(__file__).parents[2] / "deploy"


def samples(row: Served) -> dict[tuple[str, ...], float]:
    reply = row.get("/metrics")
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    return {
        (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_status():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row:
        deepened(row)
        update_id = caught_up(row)
        found = samples(row)
        of = ("exchange=binance.com", "market=BTCUSDT")
        status = row.manager.get_status("BTCUSDT")
        assert found["ldc_book_update_id", *of] == update_id
        assert found["ldc_book_synchronized", *of] == 1
        assert found["ldc_updates_applied_total", *of] == status.counters.updates_applied
        assert found["ldc_book_levels", *of, "side=bids"] == status.bid_count
        assert found["ldc_markets_total", "exchange=binance.com"] == 2
        assert found["ldc_gateway_events_total", "event=requests"] >= 1
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        found = samples(row)
        assert found["ldc_book_synchronized", *of] == 0
        assert found["ldc_book_cause", "cause=REQUESTED", *of] == 1
        assert found["ldc_resyncs_total", "cause=REQUESTED", *of] == 1


def test_a_collector_goes_into_a_registry_of_ones_own():
    with served() as row:
        registry = CollectorRegistry()
        registry.register(metrics.collector(row.manager))
        of = {"exchange": "binance.com", "market": "BTCUSDT"}
        assert registry.get_sample_value("ldc_book_synchronized", of) == 1
    row.manager.stop_manager()
    assert registry.get_sample_value("ldc_book_synchronized", of) is None


def test_the_dashboard_and_the_alerts_name_families_that_there_are():
    with served() as row:
        caught_up(row)
        names = {key[0] for key in samples(row)} | {f"{name}_total" for name in (*metrics.COUNTERS, *metrics.BY_REASON)}
    for path in (DEPLOY / "grafana" / "dashboard.json", DEPLOY / "prometheus" / "alerts.yml"):
        named = set(re.findall(r"\bldc_[a-z_]+", path.read_text(encoding="utf-8"))) - {"ldc_token"}
        assert len(named) > 3
        assert named - names - {"ldc_book_cause"} == set(), path.name


def test_the_dashboard_is_whole():
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert all(target["expr"] for target in panel["targets"])


def test_the_unit_the_image_and_compose_call_what_there_is():
    from ldc.cli.main import make_parser

    [commands] = [action.choices for action in make_parser()._actions if isinstance(action.choices, dict)]
    known = {option for action in commands["serve"]._actions for option in action.option_strings}
    for name in ("ldc-gateway.service", "Dockerfile", "docker-compose.yml"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        used = set(re.findall(r"(?<=[\s\"])--(?:host|port|token-file|no-token|allow-host|exchange|log-format)\b", text))
        assert used
        assert used <= known
    unit = (DEPLOY / "ldc-gateway.service").read_text(encoding="utf-8")
    for rule in (
        "NoNewPrivileges=yes",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "Restart=on-failure",
        "LoadCredential=",
    ):
        assert rule in unit
    image = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert image.index("USER 10001") < image.index("ENTRYPOINT")
    assert image.count("\nFROM ") + image.startswith("FROM ") == 2
    assert "HEALTHCHECK" in image


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    try:
        version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze here")
    assert version.returncode == 0
    text = (DEPLOY / "ldc-gateway.service").read_text(encoding="utf-8")
    unit = tmp_path / "ldc-gateway.service"
    unit.write_text(text.replace("/usr/local/lib/ldc/bin/ldc", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "ldc-gateway" not in found.stderr


def test_the_files_of_yaml_are_what_they_should_be():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text(encoding="utf-8"))
    assert compose["services"].keys() == {"ldc", "prometheus", "grafana"}
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", []):
            assert (DEPLOY / volume.split(":")[0]).is_file()
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    assert all({"alert", "expr", "labels", "annotations"} <= rule.keys() for rule in group["rules"])


def test_a_line_of_the_json_log_is_one_object_whatever_it_says(capsys):
    logger = logging.getLogger("binance_local_depth_cache")
    before = logger.handlers[:], logger.level
    with logged_to(sys.stderr, "json", "info"):
        logger.warning("two\nlines and \x1b[31m %s", "ümlaut")
        try:
            json.loads("{")
        except ValueError:
            logger.exception("outer")
        logger.debug("not shown")
    assert (logger.handlers, logger.level) == before
    lines = capsys.readouterr().err.splitlines()
    first, second = map(json.loads, lines)
    assert (first["level"], first["message"]) == ("warning", "two\nlines and \x1b[31m ümlaut")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert "JSONDecodeError: " in second["traceback"]
