"""A run with its store in a bucket: another machine continues with only the URI and credentials."""

from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, ids_of, report_of, run_flow
from tests.store.s3_server import ENVIRONMENT, s3_endpoint, s3_uri

__all__ = ["s3_endpoint", "s3_uri"]


@pytest.mark.slow
def test_another_machine_branches_from_a_stage_in_the_bucket(
    s3_endpoint: str, s3_uri: str, finished: Path, tmp_path: Path
) -> None:
    access = {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": s3_endpoint}
    first, second = tmp_path / "first", tmp_path / "second"
    for machine in (first, second):
        machine.mkdir()
    done = run_flow(first, "run", "--ladder", "4:1", "--store", s3_uri, *SMALL, **access)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert ids_of(first) == ids_of(finished)  # where a checkpoint is kept is no part of what it is

    reference = f"DistillFlow/{report_of(first)['run_id']}/2"
    branch = run_flow(
        second, "run", "--from", reference, "--store", s3_uri, *SMALL, PROGDISTILL_CACHE=str(second), **access
    )
    assert branch.returncode == 0, branch.stdout[-2000:] + branch.stderr[-2000:]
    assert ids_of(second) == ids_of(first)[1:]
    assert branch.stdout.count("student of 1 steps: found finished in the store") == 1
