"""The CloudFormation templates, validated against AWS's resource schemas."""

import re

import pytest

from tests.infra.policies import as_list, template
from tests.infra.tools import INFRA, KUBERNETES_VERSION, objects, run, tool

TEMPLATES = sorted(path.name for path in (INFRA / "aws").glob("*.yaml"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_cfn_lint_has_nothing_to_say(name: str) -> None:
    done = run(tool("cfn-lint"), "--include-checks", "W", "--", INFRA / "aws" / name)
    assert done.returncode == 0, done.stdout


def test_every_identity_is_of_a_service_account_that_exists() -> None:
    accounts = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for folder in ("base", "metaflow")
        for one in objects(folder)
        if one["kind"] == "ServiceAccount"
    }
    identities = {
        (one["Properties"]["Namespace"], one["Properties"]["ServiceAccount"])
        for one in template("cluster.yaml")["Resources"].values()
        if one["Type"] == "AWS::EKS::PodIdentityAssociation"
    }
    assert identities == accounts - {("progdistill", "progdistill-reaper")}, "it needs no bucket"


def test_the_cluster_is_of_the_release_that_manifests_are_checked_against() -> None:
    assert template("cluster.yaml")["Parameters"]["KubernetesVersion"]["Default"] == KUBERNETES_VERSION


def test_every_imported_policy_is_exported() -> None:
    exported = {
        one["Export"]["Name"].replace("${AWS::StackName}", "")
        for one in template("storage.yaml")["Outputs"].values()
        if "Export" in one
    }
    imported = {
        policy["Fn::ImportValue"].replace("${StorageStack}", "")
        for one in template("cluster.yaml")["Resources"].values()
        if one["Type"] == "AWS::IAM::Role"
        for policy in one["Properties"]["ManagedPolicyArns"]
        if isinstance(policy, dict)
    }
    assert imported
    assert imported <= exported


def test_no_statement_allows_everything() -> None:
    for resource in template("storage.yaml")["Resources"].values():
        for statement in resource["Properties"].get("PolicyDocument", {}).get("Statement", []):
            if statement["Effect"] == "Allow":
                assert "*" not in "".join(as_list(statement["Action"]))
                assert "*" not in as_list(statement["Resource"])


def test_what_holds_history_survives_the_stack() -> None:
    for name in ("storage.yaml", "cluster.yaml"):
        for resource in template(name)["Resources"].values():
            if resource["Type"] in ("AWS::S3::Bucket", "AWS::RDS::DBInstance", "AWS::ECR::Repository"):
                assert resource["DeletionPolicy"] in ("Retain", "Snapshot")
                assert resource["UpdateReplacePolicy"] in ("Retain", "Snapshot")


def test_templates_hold_no_password() -> None:
    database = template("cluster.yaml")["Resources"]["Database"]["Properties"]
    password = database["MasterUserPassword"]
    assert re.fullmatch(r"\{\{resolve:secretsmanager:\$\{DatabasePassword\}:SecretString:password\}\}", password)
    assert template("cluster.yaml")["Resources"]["DatabasePassword"]["Properties"]["GenerateSecretString"]
