"""What looks like a secret is refused by name or by form, and never printed."""

import json

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.config.deployment import parse_deployment
from progdistill.config.options import RunOptions
from progdistill.config.settings import settings_from
from progdistill.errors import UsageError

SECRET = "planted-5ecret"
BY_NAME = (
    *("DB_PASS", "PGPASS", "PGPASSWORD", "SSH_KEY", "OPENAI_KEY", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"),
    *(
        "MYSQL_PWD",
        "SENTRY_DSN",
        "SSH_PASSPHRASE",
        "BASIC_AUTH",
        "SESSION_COOKIE",
        "REDIS_URL",
        "MONGODB_URI",
        "GPG_KEYS",
    ),
    *("api_key", "WANDB_API_KEY", "SLACK_WEBHOOK_URL", "JWT", "PRIVATE_PEM", "MY_CREDENTIALS"),
)
BY_FORM = {
    "http_proxy": f"http://user:{SECRET}@proxy.example:3128",
    "HTTPS_PROXY": f"https://{SECRET}@proxy.example",
    "BACKEND": f"postgresql://me:{SECRET}@db/x",
    "A": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "B": "AKIAIOSFODNN7EXAMPLE",
    "C": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "D": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "E": "sk-abcdefghijklmnopqrstuvwxyz012345",
    "F": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln",
}
PLAIN = {
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL_S3": "https://s3.example:9000",
    "NCCL_DEBUG": "WARN",
    "TOKENIZERS_PARALLELISM": "false",
    "http_proxy": "http://proxy.example:3128",
    "SSL_CERT_FILE": "/etc/ssl/ca.pem",
    "XLA_FLAGS": "--xla_gpu_autotune_level=2",
    "PGPASSFILE": "/secrets/pgpass",
    "EMAIL": "me@example.com",
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_variable_named_like_a_secret_is_refused_without_its_value(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} looks like a secret"):
        ClusterSettings(env={name: SECRET})


@pytest.mark.parametrize("name", BY_FORM)
def test_a_value_of_the_form_of_a_secret_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} looks like a secret"):
        ClusterSettings(env={name: BY_FORM[name]})


def test_plain_variables_pass() -> None:
    assert ClusterSettings(env=PLAIN).env == PLAIN


@pytest.mark.parametrize(
    "given",
    [
        f"cluster.env={json.dumps({'DB_PASS': SECRET})}",
        f"cluster.env={json.dumps({'http_proxy': f'http://u:{SECRET}@p'})}",
        f"cluster.env=DB_PASS={SECRET}",
        f"cluster.env.DB_PASS={SECRET}",
        f"cluster.train.env={json.dumps({'OPENAI_KEY': SECRET})}",
        f"cluster.env={json.dumps({'X': [SECRET]})}",
        f"cluster={json.dumps({'env': {'SSH_KEY': SECRET}})}",
        f"cluster={json.dumps({'env': SECRET})}",
    ],
)
def test_no_refusal_says_the_secret(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        settings_from(RunOptions(set=(given,)))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("environment", [{"DB_PASS": SECRET}, {"DB_PASS": [SECRET]}, SECRET])
def test_a_deployment_does_not_print_it_either(environment: object) -> None:
    with pytest.raises(UsageError) as refused:
        parse_deployment(json.dumps({"environment": environment}))
    assert SECRET not in str(refused.value)
