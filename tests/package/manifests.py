"""Checks deploy/compose.yaml and deploy/kubernetes.yaml: each thing that is named is there. Prints the commands of their probes
and of the image, without the program, for tests/package/run to try."""

import json
import re
import sys

import yaml

CONFIGURATION = open("deploy/container.toml").read()
commands = set()


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")


def command(words):
    check(words[0] == "/callgate", f"the program in {words}")
    commands.add(" ".join(words[1:]))


# === The image ===

image = open("deploy/Containerfile").read()
for line in re.findall(r"^(?:HEALTHCHECK .*)?CMD (\[.*\])$", image, re.M):
    words = json.loads(line)
    command(words if words[0] == "/callgate" else ["/callgate", *words])
user = re.search(r"^USER (\d+):\d+$", image, re.M).group(1)

# === Compose ===

compose = yaml.safe_load(open("deploy/compose.yaml"))
gate = compose["services"]["callgate"]
mounted = {f"/run/secrets/{name}" for name in gate["secrets"]}
used = set(re.findall(r'"(/run/secrets/[^"]+)"', CONFIGURATION))
check(used == mounted == {f"/run/secrets/{name}" for name in compose["secrets"]}, f"secrets: {used} and {mounted}")
check(compose["configs"]["proxy"]["file"] == "container.toml", "the configuration")
check(f"uid={user}," in gate["tmpfs"][0], "the owner of /run/callgate")
check([name.split(":")[0] for name in gate["volumes"]] == list(compose["volumes"]), "volumes")

# === Kubernetes ===

parts = {part["kind"]: part for part in yaml.safe_load_all(open("deploy/kubernetes.yaml"))}
check(parts["ConfigMap"]["data"]["proxy.toml"] == CONFIGURATION, "the ConfigMap is deploy/container.toml")
pod = parts["Deployment"]["spec"]["template"]
check(parts["Service"]["spec"]["selector"] == pod["metadata"]["labels"], "the labels of the service")
check(parts["Deployment"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"], "the labels of the pod")
spec = pod["spec"]
security = spec["securityContext"]
check(security["runAsUser"] == security["fsGroup"] == int(user) and security["runAsNonRoot"], "the user")
gate = next(container for container in spec["containers"] if container["name"] == "callgate")
for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
    command(gate[probe]["exec"]["command"])
commands.add(" ".join(gate["args"]))
volumes = {volume["name"]: volume for volume in spec["volumes"]}
check({mount["name"] for mount in gate["volumeMounts"]} == set(volumes), "volumes")
secrets = volumes["secrets"]["projected"]
names = set(parts["Secret"]["stringData"])
names |= {item["path"] for source in secrets["sources"] for item in source["secret"].get("items", [])}
check({f"/run/secrets/{name}" for name in names} == used and secrets["defaultMode"] == 0o440, f"secrets: {names}")
check(volumes["config"]["configMap"]["name"] == parts["ConfigMap"]["metadata"]["name"], "the ConfigMap")
check(parts["Service"]["spec"]["ports"][0]["targetPort"] == gate["ports"][0]["name"], "the port")
check(f":{gate['ports'][0]['containerPort']}\"" in CONFIGURATION, "the port that callgate listens on")

print("\n".join(sorted(commands)))
