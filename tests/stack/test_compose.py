"""The compose file agrees with the settings and with the embedded stack. No engine is needed."""

import re
from pathlib import Path
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.stack.artifacts import VERSION

yaml = pytest.importorskip("yaml", reason="the compose file is read with PyYAML")

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEFAULTS = Settings.model_fields
#: What works on the servers.
PROCESSES = ("worker", "publisher", "delivery", "door")
#: What watches them.
WATCHERS = ("prometheus", "grafana")


def test_the_services() -> None:
    """Both servers, what prepares them, what folds, publishes, calls webhooks and serves HTTP, and what watches it."""
    assert set(SERVICES) == {"kafka", "postgres", "init", *PROCESSES, *WATCHERS}


@pytest.mark.parametrize("name", ["kafka", "postgres", *PROCESSES, *WATCHERS])
def test_what_stays_up_is_watched(name: str) -> None:
    """It is restarted, and its health is asked for."""
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_judged_by_its_own_check(name: str) -> None:
    """Not by the ledger as a whole: what another process lacks is no reason to call this one unhealthy."""
    assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "creditfold", SERVICES[name]["command"][0], "--check"]


def test_ports_are_open_on_loopback_only() -> None:
    """The default password is public."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port) for port in ports)


def test_kafka_is_where_the_settings_look_for_it() -> None:
    """The published port is the default of CREDITFOLD_KAFKA_BOOTSTRAP, and the one that the broker reports clients."""
    kafka = SERVICES["kafka"]
    host, _, port = str(DEFAULTS["kafka_bootstrap"].default).partition(":")
    published = f"{host}:${{CREDITFOLD_KAFKA_PORT:-{port}}}"
    assert kafka["ports"] == [f"{published}:29092"]
    assert f"HOST://{published}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_the_door_is_where_the_settings_look_for_it() -> None:
    """Published where `creditfold serve` would listen, and reached in its container on the port of the settings."""
    port = DEFAULTS["api_port"].default
    assert SERVICES["door"]["ports"] == [f"127.0.0.1:${{CREDITFOLD_API_PORT:-{port}}}:{port}"]
    assert "CREDITFOLD_API_PORT" not in SERVICES["door"]["environment"]


def test_no_request_is_served_without_a_key() -> None:
    """Who reaches the container's network reaches the door."""
    assert SERVICES["door"]["command"] == ["serve", "--host", "0.0.0.0"]  # noqa: S104 - In a container.


def test_both_stacks_run_the_same_kafka() -> None:
    """The image is of the version that the pom pins."""
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{VERSION}"
    assert f"<version>{VERSION}</version>" in (ROOT / "stack" / "pom.xml").read_text(encoding="utf-8")


def test_kafka_forgets_nothing_and_makes_up_nothing() -> None:
    """Topics are made by us, and kept."""
    environment = SERVICES["kafka"]["environment"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert environment["KAFKA_LOG_RETENTION_MS"] == "-1"
    # Whoever changes where it logs changes what is mounted, or the log dies with the container.
    assert SERVICES["kafka"]["volumes"] == [f"kafka:{environment['KAFKA_LOG_DIRS']}"]


def test_data_lies_in_named_volumes() -> None:
    """`docker compose down` keeps it. The path is what postgres:18 wants."""
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert set(COMPOSE["volumes"]) == {"kafka", "postgres", *WATCHERS}


@pytest.mark.parametrize("name", ["init", *PROCESSES])
def test_each_variable_is_a_setting(name: str) -> None:
    """A misspelt one would be ignored without a word."""
    given = {variable for variable in SERVICES[name]["environment"] if variable.startswith("CREDITFOLD_")}
    assert given
    assert given <= {f"CREDITFOLD_{setting.upper()}" for setting in DEFAULTS}


@pytest.mark.parametrize("setting", ["commands_topic", "outcomes_topic", "dead_letters_topic", "partitions", "group"])
def test_defaults_are_those_of_the_settings(setting: str) -> None:
    """The same without compose."""
    variable = f"CREDITFOLD_{setting.upper()}"
    given = SERVICES["worker"]["environment"][variable]
    assert given == f"${{{variable}:-{DEFAULTS[setting].default}}}"


def test_the_order_of_the_start() -> None:
    """Servers, then topics and tables, then all that works on them."""
    healthy = {"condition": "service_healthy"}
    assert SERVICES["init"]["depends_on"] == {"kafka": healthy, "postgres": healthy}
    for name in PROCESSES:
        assert SERVICES[name]["depends_on"] == {"init": {"condition": "service_completed_successfully"}}
    commands = {name: SERVICES[name]["command"][0] for name in ("init", *PROCESSES)}
    own = {name: name for name in ("init", "worker", "publisher", "delivery")}
    assert commands == {**own, "door": "serve"}
    # What it prints is kept in a log.
    assert SERVICES["init"]["command"] == ["init", "--no-key"]


@pytest.mark.parametrize("name", ["init", *PROCESSES])
def test_ours_write_no_file(name: str) -> None:
    """Their root is read-only, nothing is mounted, no folder is named; tests/whole/test_no_folder.py runs them so."""
    assert SERVICES[name]["read_only"] is True
    assert "volumes" not in SERVICES[name]
    assert "CREDITFOLD_DATA_DIR" not in SERVICES[name]["environment"]


def test_prometheus_scrapes_each_process() -> None:
    """Where it shows its metrics to the containers' network, and to nobody else."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (scraped,) = config["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"{name}:29081" for name in PROCESSES]}]
    for name, setting in zip(PROCESSES, ("worker", "publisher", "delivery", "api"), strict=True):
        assert SERVICES[name]["environment"][f"CREDITFOLD_{setting.upper()}_METRICS_ADDRESS"] == "0.0.0.0:29081"
        assert all(not port.endswith(":29081") for port in SERVICES[name].get("ports", []))


def test_what_is_mounted_is_there() -> None:
    """Files of the repository, which nobody in a container can change; and Grafana asks the Prometheus beside it."""
    mounted = [mount.split(":") for name in WATCHERS for mount in SERVICES[name]["volumes"] if mount.startswith("./")]
    assert all((ROOT / source).is_dir() and mode == "ro" for source, _, mode in mounted)
    assert {target for _, target, _ in mounted} == {"/etc/prometheus", "/etc/grafana/provisioning", "/etc/creditfold"}
    grafana = ROOT / "deploy" / "grafana"
    sources = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert [one["url"] for one in sources["datasources"]] == ["http://prometheus:9090"]
    dashboards = yaml.safe_load((grafana / "provisioning/dashboards/creditfold.yml").read_text(encoding="utf-8"))
    assert [one["options"]["path"] for one in dashboards["providers"]] == ["/etc/creditfold"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (grafana / Path(home).relative_to("/etc/creditfold")).is_file()


def test_the_image() -> None:
    """Not root, with the compiled core or not at all; and every folder that is a room goes to the builder."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "\nUSER creditfold\n" in dockerfile
    assert "\nRUN CREDITFOLD_CORE=compiled python -m build --wheel " in dockerfile
    assert "creditfold-*.whl)[worker,api,delivery,otel]" in dockerfile
    assert SERVICES["worker"]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rooms = [path.parent.name for path in ROOT.glob("*/py.typed")]
    assert [room for room in [*rooms, "building"] if f"!{room}/" not in sent] == []
