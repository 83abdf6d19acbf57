"""Environment variables that hold no secrets: they are readable in manifests."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator

_SECRET_NAME: Final = re.compile(
    r"SECRET|PASSW|PASSPHRASE|PASS(_|$)|PWD|TOKEN(?!IZER)|CREDENTIAL|PRIVATE|KEYS?(_|$)|COOKIE|BEARER|AUTH(_|$)|DSN"
    r"|SALT(_|$)|JWT|(DATABASE|DB|REDIS|MONGO(DB)?|POSTGRES(QL)?|MYSQL|AMQP|BROKER|WEBHOOK)_?UR[IL]",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(
    r"://[^/@\s]+@"  # a URL with a user or a password, such as a proxy's
    r"|-----BEGIN|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[a-z]_\w{20,}|\bhf_\w{20,}|\bsk-[\w-]{20,}|\bxox[a-z]-|\beyJ[\w-]+\.eyJ"
)
"""Credentials by their form: of URLs, keys in PEM, AWS, GitHub, Hugging Face, OpenAI, Slack, and JSON Web Tokens."""


def check_no_secrets(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables; ValueError if the name or the value of one looks like a secret."""
    for name, value in variables.items():
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
            raise ValueError(
                f"{name} looks like a secret, which would be readable in manifests: put it into a Kubernetes"
                " Secret and name that in cluster.env_from_secrets"
            )
    return variables


PlainVariables = Annotated[dict[str, str], AfterValidator(check_no_secrets)]
"""Environment variables; those whose name or value looks like a secret are refused."""
