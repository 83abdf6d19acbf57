"""Variables that read as secrets are kept out of what anyone may read: manifests, workflows, Jobs."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator

_SECRET_NAME: Final = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|PRIVATE|ACCESS_?KEY|API_?KEY", re.IGNORECASE)


def _no_secrets(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if _SECRET_NAME.search(name):
            raise ValueError(
                f"{name} reads as a secret, which would stand readable in workflows and manifests: put it"
                " into a Kubernetes Secret and name that instead"
            )
    return variables


PlainVariables = Annotated[dict[str, str], AfterValidator(_no_secrets)]
"""Environment variables with their values, none of which may be a secret by its name."""
