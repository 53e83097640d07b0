"""The examples in `deploy/` fit together, as far as that can be told without containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.loop_clock import HANGS
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KINDS = {"Deployment", "StatefulSet"}
IMAGE = re.compile(r"[a-z]+(/[a-z]+)?:v?[\d.]+")  # no registry's host


def _all(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


COMPOSE: dict[str, Any] = _all(DEPLOY / "compose.yaml")[0]
KUSTOMIZATION: dict[str, Any] = _all(DEPLOY / "kustomization.yaml")[0]
OBJECTS: list[Any] = [each for name in KUSTOMIZATION["resources"] for each in _all(DEPLOY / name)]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "roomkey.json").read_text())
RULES: list[Any] = _all(DEPLOY / "prometheus" / "rules.yml")[0]["groups"][0]["rules"]
PARTS = ("_bucket", "_count", "_sum")  # of a histogram
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]] + [
    rule["expr"] for rule in RULES
]


def _command() -> list[str]:
    """Return the command of the image, as the Dockerfile has it."""
    (found,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M)
    command: list[str] = json.loads(found)
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def _workloads() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each workload: its name, its object and its pod."""
    for each in OBJECTS:
        if each["kind"] in KINDS:
            yield each["metadata"]["name"], each, each["spec"]["template"]["spec"]


# --- the app, with its real command and a real Redis ----------------------------------------------------------------


@contextmanager
def _running(**variables: str) -> Iterator[tuple[str, str]]:
    """The app, started as its image starts it. Gives the addresses of its pages and of its metrics."""
    port, metrics_port = free_port(), free_port()
    command = _command()
    for option, value in (("--host", "127.0.0.1"), ("--port", str(port))):
        command[command.index(option) + 1] = value
    own = {"ROOMKEY_SECRET_KEY": "k" * 43, "METRICS_PORT": str(metrics_port), "PYTHONPATH": str(ROOT / "src")}
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEY_")}
    environment = {**others, "PYTHONDONTWRITEBYTECODE": "1", **variables, **own}
    process = subprocess.Popen(command, cwd=DEPLOY, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(process, f"{address}/health")
        yield address, f"http://127.0.0.1:{metrics_port}/metrics"
    finally:
        process.terminate()
        process.wait(timeout=HANGS)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The app over a real Redis."""
    with RedisServer() as redis, _running(ROOMKEY_STORE=redis.url) as addresses:
        yield addresses


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    give_up = time.monotonic() + HANGS
    while time.monotonic() < give_up:
        assert process.poll() is None, "the app ended"
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def test_the_app_logs_in_and_out(served: tuple[str, str]) -> None:
    """A user is counted, and after the log-out the old cookie opens nothing."""
    address, _ = served
    with httpx.Client(base_url=address) as client:
        assert client.post("/login").json() == {"user": "ada"}
        assert client.get("/").json() == {"user": "ada", "visits": 1}
        kept = dict(client.cookies)
        client.post("/logout")
    assert httpx.get(address, cookies=kept).json() == {"user": None, "visits": 1}


def test_behind_the_ingress_the_cookie_is_for_https_alone() -> None:
    """With the variables of the pod, and the header of a proxy with TLS, the cookie is `__Host-` and `Secure`."""
    (pod,) = [pod for name, _, pod in _workloads() if name == "app"]
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"] if "value" in each}
    with _running(**variables, ROOMKEY_STORE="memory://") as (address, _):
        answer = httpx.post(f"{address}/login", headers={"X-Forwarded-Proto": "https"})
    cookies = answer.headers.get_list("set-cookie")
    assert any(cookie.startswith("__Host-session=") for cookie in cookies)
    assert all(cookie.startswith("__Host-") and cookie.endswith("; Secure") for cookie in cookies)


def test_the_metrics_have_what_is_asked_of_them(served: tuple[str, str]) -> None:
    """Each metric and label in a query of the dashboard, or of an alert, is one that the app serves."""
    address, metrics = served
    with httpx.Client(base_url=address) as client:
        client.post("/login")
        client.post("/logout")
    httpx.get(address, cookies={"session": "forged"})
    text = httpx.get(metrics).text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    served_as = {f"{name}{part}": name for name, kind in types.items() if kind == "histogram" for part in PARTS}
    asked = {name for query in QUERIES for name in re.findall(r"roomkey_\w+", query)}
    asked = {served_as.get(name, name) for name in asked}
    assert asked == {name for name in types if name.startswith("roomkey_") and not name.endswith("_created")}
    for query in QUERIES:
        for label, metric in re.findall(r"by \((\w+)\) \(rate\((\w+_total)", query):
            samples = re.findall(rf"^{metric}\{{(\w+)=", text, re.M)
            assert set(samples) == {label}, query
        for labels, metric in re.findall(r"by \(([\w, ]+)\) \(rate\((\w+_(?:bucket|count|sum))", query):
            (names, *_) = re.findall(rf"^{metric}\{{(.+)\}}", text, re.M)
            assert set(labels.split(", ")) <= set(re.findall(r"(\w+)=", names)), query


def test_the_values_that_queries_ask_for_exist() -> None:
    """Each `event="..."` and `reason="..."` is one that Roomkey reports."""
    source = (ROOT / "src" / "roomkey" / "events.py").read_text() + (
        ROOT / "src" / "roomkey" / "prometheus.py"
    ).read_text()
    values = {value for query in QUERIES for value in re.findall(r'(?:event|reason)="([\w-]+)"', query)}
    assert values >= {"created", "key", "damaged", "log-in"}
    assert [value for value in values if f'"{value}"' not in source] == []


def test_probes_are_answered(served: tuple[str, str]) -> None:
    """What Kubernetes and Compose ask the app for is there, and needs no session."""
    address, _ = served
    (pod,) = [pod for name, _, pod in _workloads() if name == "app"]
    (container,) = pod["containers"]
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    check = COMPOSE["services"]["app"]["healthcheck"]["test"][-1]
    paths |= set(re.findall(r"http://127\.0\.0\.1:8000(/\w*)", check))
    for path in paths:
        answer = httpx.get(address + path, cookies={"session": "forged"})
        assert (answer.status_code, answer.json()) == (200, {"status": "up"})
        assert "vary" not in answer.headers and "set-cookie" not in answer.headers
    assert paths == {"/health"}


def test_the_health_check_of_compose_runs(served: tuple[str, str]) -> None:
    """Its command succeeds where the app answers, and fails where it does not."""
    address, _ = served
    _, program, option, code = COMPOSE["services"]["app"]["healthcheck"]["test"]
    assert program == "python"
    for url, fails in ((address, False), (f"http://127.0.0.1:{free_port()}", True)):
        asked = code.replace("http://127.0.0.1:8000", url)
        run = subprocess.run([sys.executable, option, asked], capture_output=True, timeout=HANGS)
        assert bool(run.returncode) is fails, run.stderr


# --- Compose --------------------------------------------------------------------------------------------------------


def test_compose_is_complete() -> None:
    """All five services are there, with images of plain names, mounts that exist and volumes that are declared."""
    services = COMPOSE["services"]
    assert set(services) == {"app", "redis", "postgres", "prometheus", "grafana"}
    for service in services.values():
        assert "build" in service or IMAGE.fullmatch(service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        for name in service.get("depends_on", []):
            assert name in services
    build = services["app"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=$", (DEPLOY / ".env.example").read_text(), re.M))


def test_the_image_copies_what_is_there() -> None:
    """Each file that the Dockerfile copies exists, and each extra that it installs is one."""
    text = (DEPLOY / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((ROOT / source).exists() for source in sources.split()), sources
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(","))
    assert IMAGE.match(re.findall(r"^FROM (\S+)$", text, re.M)[0])


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def test_kubernetes_has_each_part() -> None:
    """The same five run there, each behind a Service that leads to its pods and ports."""
    workloads = {name: (each, pod) for name, each, pod in _workloads()}
    assert set(workloads) == set(COMPOSE["services"])
    ports = {}
    for name, (each, pod) in workloads.items():
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"] == labels == {"app": name}
        (container,) = pod["containers"]
        assert IMAGE.fullmatch(container["image"]) and "readinessProbe" in container and "resources" in container
        ports[name] = {port["name"]: port["containerPort"] for port in container["ports"]}
        probe = container["readinessProbe"].get("httpGet")
        assert probe is None or probe["port"] in ports[name]
    services = {each["metadata"]["name"]: each["spec"] for each in OBJECTS if each["kind"] == "Service"}
    assert set(services) == {*workloads, "app-metrics"}
    for name, service in services.items():
        to = service["selector"]["app"]
        assert all(port["targetPort"] in ports[to] for port in service["ports"]), name


def test_kubernetes_mounts_what_is_there() -> None:
    """Volumes, configurations and secrets that pods name exist. The secrets are those that the page has one make."""
    maps = {each["name"] for each in KUSTOMIZATION["configMapGenerator"]}
    for each in KUSTOMIZATION["configMapGenerator"]:
        assert all((DEPLOY / file).is_file() for file in each["files"])
    made = set(re.findall(r"--from-literal=([\w-]+)=", (DEPLOY / "README.md").read_text()))
    keys, used = set(), set()
    for _, each, pod in _workloads():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        used |= {volume["configMap"]["name"] for volume in volumes.values()}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == {*volumes, *claims}
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["name"] == "shop"
                    keys.add(reference["key"])
    assert used == maps
    assert keys == made


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_builds_the_objects() -> None:
    """`kubectl kustomize` takes the folder, and puts every object into the namespace."""
    run = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, timeout=5 * HANGS)
    assert run.returncode == 0, run.stderr
    built = [document for document in yaml.safe_load_all(run.stdout) if document]
    assert len(built) == len(OBJECTS) + len(KUSTOMIZATION["configMapGenerator"])
    assert {each["metadata"].get("namespace") for each in built if each["kind"] != "Namespace"} == {"shop"}


# --- Prometheus and Grafana -----------------------------------------------------------------------------------------


def test_prometheus_finds_the_app() -> None:
    """The name and the port that it scrapes are those of the app, in Compose and in Kubernetes."""
    (config,) = _all(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = config["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert job["job_name"] == "app" and config["rule_files"] == ["rules.yml"]
    app = COMPOSE["services"]["app"]
    assert names["names"] == app["networks"]["default"]["aliases"] == ["app-metrics"]
    assert str(names["port"]) == app["environment"]["METRICS_PORT"]
    (service,) = [each for each in OBJECTS if each["kind"] == "Service" and each["metadata"]["name"] == "app-metrics"]
    assert service["spec"]["ports"][0]["port"] == names["port"] and service["spec"]["clusterIP"] == "None"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_takes_the_rules() -> None:
    """Prometheus' own tool finds nothing wrong with its configuration and the alerts."""
    command = ["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stdout + run.stderr


def test_grafana_finds_the_dashboard() -> None:
    """The dashboard's source is the one that is provisioned, and its panels neither overlap nor lack a text."""
    (sources,) = _all(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    (providers,) = _all(DEPLOY / "grafana" / "provisioning" / "dashboards" / "roomkey.yaml")
    (source,) = sources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    folder = providers["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == folder for volume in COMPOSE["services"]["grafana"]["volumes"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        used = {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])}
        assert used == {source["uid"]} and panel["title"] and panel["description"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
