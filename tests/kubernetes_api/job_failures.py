"""What a failed pod means for its job: podFailurePolicy (pkg/controller/job/pod_failure_policy.go)."""

from tests.kubernetes_api.storage import Object


def judge(job: Object, pod: Object) -> tuple[str, str]:
    """The action for a failed pod (Count, Ignore or FailJob) and the message of a FailJob."""
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or []
    for index, rule in enumerate(rules):
        action = rule["action"]
        if "onExitCodes" in rule:
            for container in pod["status"].get("containerStatuses") or []:
                code = container["state"].get("terminated", {}).get("exitCode", 0)
                if code and _code_matches(rule["onExitCodes"], container["name"], code):
                    text = (
                        f"Container {container['name']} for pod {where} failed with exit code {code} matching"
                    )
                    return action, f"{text} {action} rule at index {index}"
        for pattern in rule.get("onPodConditions") or []:
            for condition in pod["status"].get("conditions") or []:
                if (condition["type"], condition["status"]) == (
                    pattern["type"],
                    pattern.get("status", "True"),
                ):
                    text = f"Pod {where} has condition {condition['type']} matching"
                    return action, f"{text} {action} rule at index {index}"
    return "Count", ""


def _code_matches(requirement: Object, container: str, code: int) -> bool:
    if requirement.get("containerName") not in (None, container):
        return False
    listed = code in requirement["values"]
    return listed if requirement["operator"] == "In" else not listed
