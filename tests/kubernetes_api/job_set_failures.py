"""What a failed job means for its JobSet: failurePolicy (jobset, pkg/controllers/failure_policy.go)."""

from typing import NamedTuple

from tests.kubernetes_api.conditions import condition
from tests.kubernetes_api.storage import Object

REPLICATED_JOB = "jobset.sigs.k8s.io/replicatedjob-name"
ACTIONS = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")


class Verdict(NamedTuple):
    """Either the JobSet fails, or it restarts and perhaps counts that restart; why, in both cases."""

    fails: bool
    counts: bool
    reason: str
    message: str


def judge(job_set: Object, failed: list[Object]) -> Verdict:
    """The first rule that fits a failed job decides, RestartJobSet when none does."""
    first = min(failed, key=_when)
    policy = job_set["spec"].get("failurePolicy")
    if policy is None:
        message = "jobset failed due to one or more job failures"
        return Verdict(True, False, "FailedJobs", _naming(message, first))
    action = "RestartJobSet"
    for rule in policy.get("rules") or []:
        if fitting := [job for job in failed if _fits(rule, job)]:
            action, first = rule["action"], min(fitting, key=_when)
            break
    counted = job_set.get("status", {}).get("restartsCountTowardsMax", 0)
    if action == "RestartJobSet" and counted >= policy.get("maxRestarts", 0):
        message = "jobset failed due to reaching max number of restarts"
        return Verdict(True, False, "ReachedMaxRestarts", _naming(message, first))
    message = _naming(f"applying {action} failure policy action", first)
    reason = f"{action}FailurePolicyAction"
    return Verdict(action == "FailJobSet", action == "RestartJobSet", reason, message)


def _fits(rule: Object, job: Object) -> bool:
    reasons, targets = rule.get("onJobFailureReasons"), rule.get("targetReplicatedJobs")
    right_reason = not reasons or condition(job, "Failed")["reason"] in reasons
    return right_reason and (not targets or job["metadata"]["labels"][REPLICATED_JOB] in targets)


def _when(job: Object) -> str:
    return str(condition(job, "Failed")["lastTransitionTime"])


def _naming(message: str, job: Object) -> str:
    return f"{message} (first failed job: {job['metadata']['name']})"
