"""A package in a bucket of S3, or of whatever speaks like it.

The client is obstore, an extra of its own. Credentials, region and endpoint are the standard ones of the environment
(`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …): they are the operator's, never part of a source. An endpoint
that the operator gives as http:// is used as such.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import TYPE_CHECKING

from insula.errors import CallerError, Code, ConfigurationError, UnavailableError
from insula.packages.blocking import in_thread
from insula.packages.gzipped import size

if TYPE_CHECKING:
    from obstore.store import S3Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY = 1024
_PIECE = 1 << 20


async def read_object(bucket: str, key: str, *, timeout: float, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The bytes of `s3://bucket/key`, in pieces; `timeout` in seconds is for each request.

    CallerError 404 where there is none, 403 where the store refuses the server, 413 where it is too large.
    """
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise CallerError(
            f"{bucket[:80]!r} is not the name of a bucket", hint="write s3://bucket/path/to/service.okra.pkg"
        )
    if not key or len(key) > _MAX_KEY:
        raise CallerError(
            "the source names a bucket and no object", hint=f"write s3://{bucket}/path/to/service.okra.pkg"
        )
    store = await in_thread(_store, bucket, timeout)
    from obstore import get_async
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

    try:
        found = await get_async(store, key)
        if found.meta["size"] > max_bytes:
            raise CallerError(f"the package is larger than {size(max_bytes)}", code=Code.RESOURCE_EXHAUSTED, status=413)
        async for chunk in found.stream(min_chunk_size=_PIECE):
            yield bytes(chunk)
    except (NotFoundError, FileNotFoundError) as error:
        raise CallerError(f"there is no s3://{bucket}/{key}", code=Code.NOT_FOUND) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise CallerError(
            f"the store does not let the server read s3://{bucket}/{key}",
            code=Code.PERMISSION_DENIED,
            hint="the server's AWS_* environment holds the credentials that are used",
        ) from error
    except ValueError as error:  # obstore's word on `..`, an empty part or a NUL in a key
        raise CallerError(
            f"{key[:200]!r} is not the key of a package", hint=f"write s3://{bucket}/path/to/service.okra.pkg"
        ) from error
    except BaseError as error:
        raise UnavailableError(
            f"the store of s3://{bucket} did not answer", hint="look at AWS_ENDPOINT_URL and AWS_REGION of the server"
        ) from error


def _store(bucket: str, timeout: float) -> S3Store:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "this server was installed without what s3:// needs", hint="pip install 'insula[s3]'"
        ) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        return S3Store(
            bucket,
            client_options={
                "allow_http": endpoint.lower().startswith("http://"),
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=min(timeout, 10)),
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=timeout)},
        )
    except BaseError as error:
        raise ConfigurationError("the AWS_* environment of the server cannot be used for s3://") from error
