"""What the libraries below an S3 store raise. Importing them takes half a second: `retrying.py` does so where one may
have raised."""

import aiohttp
import botocore.exceptions
import botocore.parsers

TRANSIENT = (
    aiohttp.ClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,  # a busy store may answer with something else than XML
)
# What a provider of credentials raises has no answer of S3's in it.
NO_CREDENTIALS = (
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.MetadataRetrievalError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.SSOError,
    botocore.exceptions.TokenRetrievalError,
)
NONE_SET = (botocore.exceptions.NoCredentialsError,)
NO_NAME = (botocore.exceptions.ParamValidationError, botocore.exceptions.UnsupportedS3ArnError)
"""Of buckets and keys that there cannot be, before anything is sent."""
