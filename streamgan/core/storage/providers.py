"""What a bucket needs beside its name: endpoint, region, credentials, as the environment says them.

`AWS_*` and the profiles of `~/.aws` (those through boto3), `GOOGLE_*` and Google's default credentials,
`AZURE_STORAGE_*`; emulators too. An endpoint may be http:// for a store of one's own (MinIO, Ceph).
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError

from .address import parse_abfs

# Whoever sets another one in a running program, as in a notebook, means it for the next request.
SETTINGS = [
    *(f"AWS_{name}" for name in ("ENDPOINT_URL", "ENDPOINT_URL_S3", "PROFILE", "SKIP_SIGNATURE", "REGION")),
    *(f"AWS_{name}" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")),
    *(f"GOOGLE_{name}" for name in ("APPLICATION_CREDENTIALS", "SERVICE_ACCOUNT", "SERVICE_ACCOUNT_KEY")),
    *(f"AZURE_STORAGE_{name}" for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_KEY")),
    "STORAGE_EMULATOR_HOST",
]
_REGION_S = 10.0  # for the answer of AWS where a bucket is
_Manners = Callable[[bool], dict[str, Any]]


def own_certificates() -> bytes | None:
    """Certificates that the user trusts beside those of the system, PEM; ConfigError if there are none."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        if path := os.environ.get(name):
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise ConfigError(name, f"{path} cannot be read ({error.strerror})", "correct it") from error
    return None


def open_bucket(scheme: str, root: str, manners: _Manners) -> Any:
    """The obstore client of a bucket; ConfigError if the environment does not say enough.

    `manners(http)` gives the options that all clients have; `http`: it may talk to a server without TLS.
    """
    from obstore.exceptions import BaseError

    try:
        return _STORES[scheme](root, manners)
    except (BaseError, ValueError) as error:
        what = f"cannot be used as it is set up ({str(error).partition(chr(10))[0]})"
        raise ConfigError(f"{scheme}://{root}", what, "check the settings of your provider") from error


def _s3(bucket: str, manners: _Manners) -> Any:
    from obstore.store import S3Store

    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or env.get("AWS_ENDPOINT", "")
    # one object per request, which every store of this protocol can delete
    options: dict[str, Any] = {"disable_bulk_delete": True}
    if "AWS_ACCESS_KEY_ID" not in env and "AWS_SKIP_SIGNATURE" not in env:
        options |= _profile(bucket)
    if not endpoint and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & env.keys() and "region" not in options:
        options |= _region(bucket)
    return S3Store(bucket, **options, **manners(endpoint.startswith("http://")))


def boto3_session(bucket: str) -> Any:
    """What boto3 makes of the environment and of ~/.aws; ConfigError if they cannot be read."""
    import boto3
    from botocore.exceptions import ConfigParseError, ProfileNotFound

    try:
        return boto3.Session()
    except (ConfigParseError, ProfileNotFound) as error:
        todo = "correct AWS_PROFILE or ~/.aws"
        raise ConfigError(f"s3://{bucket}", str(error).rstrip("."), todo) from error


def _profile(bucket: str) -> dict[str, Any]:
    """Credentials and region as boto3 finds them: profiles, single sign-on, roles of machines."""
    try:
        session = boto3_session(bucket)
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}  # obstore knows roles of machines by itself
    if session.get_credentials() is None:
        todo = "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or AWS_SKIP_SIGNATURE=true for a public bucket"
        raise ConfigError(f"s3://{bucket}", "no credentials found", todo)
    region = {"region": session.region_name} if session.region_name else {}
    return {"credential_provider": Boto3CredentialProvider(session), **region}


def _region(bucket: str) -> dict[str, str]:
    """Where a bucket of AWS is: it tells everybody, and takes no requests that are signed for elsewhere."""
    import http.client

    with suppress(OSError, http.client.HTTPException):  # the first real request will say what is wrong
        connection = http.client.HTTPSConnection("s3.amazonaws.com", timeout=_REGION_S)
        connection.request("HEAD", f"/{bucket}")
        if region := connection.getresponse().getheader("x-amz-bucket-region"):
            return {"region": region}
    return {}


def _gs(bucket: str, manners: _Manners) -> Any:
    from obstore.store import GCSStore

    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    options: dict[str, Any] = {"base_url": emulator, "bearer_token": "of an emulator"} if emulator else {}
    return GCSStore(bucket, **options, **manners(emulator.startswith("http://")))


def _azure(container: str, manners: _Manners, account: str = "") -> Any:
    from obstore.store import AzureStore

    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    stated = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    pairs = dict(one.split("=", 1) for one in stated.split(";") if "=" in one)
    options: dict[str, Any] = {ours: pairs[theirs] for theirs, ours in names.items() if theirs in pairs}
    if account:
        options["account_name"] = account
    endpoint = options.get("endpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT", "")
    http = endpoint.startswith("http://") or os.environ.get("AZURE_STORAGE_USE_EMULATOR") == "true"
    return AzureStore(container, **options, **manners(http))


def _abfs(root: str, manners: _Manners) -> Any:
    container, account = parse_abfs(root)
    return _azure(container, manners, account)


_STORES: dict[str, Callable[[str, _Manners], Any]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _azure,
    "abfs": _abfs,
    "abfss": _abfs,
}
