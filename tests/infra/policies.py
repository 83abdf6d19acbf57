"""The requests that an IAM policy of infra/aws/storage.yaml allows: Allow statements without conditions."""

import re
from functools import cache
from typing import Any

import yaml

from tests.infra.tools import INFRA

BUCKET = "arn:aws:s3:::bucket"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: references become text."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        text = str(loader.construct_scalar(node))
        if suffix == "Sub":
            return text.replace("${Bucket.Arn}", BUCKET)
        return BUCKET if (suffix, text) == ("GetAtt", "Bucket.Arn") else f"{suffix} {text}"
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


yaml.add_multi_constructor("!", _short_form, _Loader)


@cache
def template(name: str) -> dict[str, Any]:
    """A template of infra/aws."""
    loaded: dict[str, Any] = yaml.load((INFRA / "aws" / name).read_text(), _Loader)
    return loaded


def statements(policy: str) -> list[dict[str, Any]]:
    """The statements of a managed policy."""
    document = template("storage.yaml")["Resources"][policy]["Properties"]["PolicyDocument"]
    return list(document["Statement"])


def as_list(value: Any) -> list[str]:
    """IAM allows one for a list of one."""
    return value if isinstance(value, list) else [value]


def allows(policies: tuple[str, ...], action: str, resource: str) -> bool:
    """Whether one of the policies allows the action on the resource."""
    return any(
        action in as_list(statement["Action"])
        and any(_matches(pattern, resource) for pattern in as_list(statement["Resource"]))
        for policy in policies
        for statement in statements(policy)
    )


def _matches(pattern: str, resource: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), resource) is not None
